"""What tests do with servers from outside of any event loop."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

from taximeter.api.embedded.postgres import postgres_program
from taximeter.api.embedded.valkey import EmbeddedValkey

ValkeyFactory = Callable[..., EmbeddedValkey]


def with_database(url: str, database: str) -> str:
    """Return the URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def with_login(url: str, role_name: str) -> str:
    """Return the URL of the same database for a user who is nothing but a member of this role."""
    name, password = f"test_{role_name}", "for-tests"
    run_sql(
        url,
        "DO $$ BEGIN"
        f" CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE {role_name};"
        # Users are the whole server's: one of an earlier test, or of tests beside these, will do.
        " EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
    )
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{name}:{password}@{place}"))


def select_one(url: str, statement: str) -> str:
    """Run statements with psql, which needs no event loop, and return what it printed."""
    finished = subprocess.run(
        [
            str(postgres_program("psql")),
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
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
