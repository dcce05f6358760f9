"""What tests do with servers from outside of any event loop."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from taximeter.api.embedded.postgres import postgres_program
from taximeter.api.embedded.valkey import EmbeddedValkey

ValkeyFactory = Callable[..., EmbeddedValkey]
QUIET: Final = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only")


def with_database(url: str, database: str) -> str:
    """Return the URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def with_login(url: str, role_name: str) -> str:
    """Return the URL of the same database for a user who is nothing but a member of this role."""
    make_login(url, role_name)
    return as_login(url, role_name)


def make_login(url: str, role_name: str) -> None:
    """Make this user, who is the whole server's."""
    name, password = _login(role_name)
    run_sql(
        url,
        "DO $$ BEGIN"
        f" CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE {role_name};"
        # One of an earlier test, or of tests beside these, will do.
        " EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
    )


def as_login(url: str, role_name: str) -> str:
    """The URL for this user, who is there already."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{':'.join(_login(role_name))}@{place}"))


def _login(role_name: str) -> tuple[str, str]:
    return f"test_{role_name}", "for-tests"


class Psql:
    """One psql that stays, for what every test asks of the server: a process each would cost more
    than what it asks for.
    """

    _END: Final = "-- the end of an answer --"

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [str(postgres_program("psql")), *QUIET, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, statement: str) -> str:
        """Run one statement and return what it printed; fails with what the server said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{statement};\nSELECT :'SQLSTATE', '{self._END}';\n")
        self._process.stdin.flush()
        printed = []
        for line in self._process.stdout:
            state, bar, end = line.rstrip("\n").partition("|")
            if bar and end == self._END:
                assert state == "00000", "".join(printed)
                return "".join(printed)
            printed.append(line)
        raise AssertionError(f"psql has ended: {''.join(printed)}")

    def close(self) -> None:
        self._process.communicate()


@contextmanager
def psql_session(url: str) -> Iterator[Psql]:
    """Closed at the end."""
    session = Psql(url)
    try:
        yield session
    finally:
        session.close()


def select_one(url: str, statement: str) -> str:
    """Run statements with psql, which needs no event loop, and return what it printed."""
    finished = subprocess.run(
        [
            str(postgres_program("psql")),
            *QUIET,
            "--set=ON_ERROR_STOP=1",
            f"--command={statement}",
            url,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.removesuffix("\n")


def run_sql(url: str, statement: str) -> None:
    """Run statements with psql; several in one call are one transaction."""
    select_one(url, statement)
