"""A database for the tests of a file, one after the other: emptied between them, which is cheaper
than a new one for each, and lets them share their sessions.

One that is not as the migrations made it any more, or has grown, is not given on. Tests of what a
database or its sessions are by themselves ask for one of their own: `@pytest.mark.own_database`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from support.servers import Psql, with_database
from support.sessions import Sessions

_BYTES_MAX: Final = 8 * 2**20
"""Of all tables: whoever filled them has made them slow to empty, too."""

_CATALOGS: Final = (
    "pg_class", "pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_inherits",
    "pg_namespace", "pg_policy", "pg_proc", "pg_rewrite", "pg_trigger", "pg_type",
)  # fmt: skip
_MADE_AS: Final = ", ".join(
    f"(SELECT (count(*), max(xmin::text::bigint))::text FROM {name})" for name in _CATALOGS
)
_LOOK: Final = f"""
WITH ours AS (
    SELECT c.oid, pg_relation_size(c.oid) AS bytes
    FROM pg_class AS c
    WHERE c.relkind = 'r'
      AND c.relnamespace IN ('public'::regnamespace, 'taximeter'::regnamespace)
)
SELECT (SELECT coalesce(array_agg(oid::regclass::text), '{{}}') FROM ours WHERE bytes > 0) AS used,
       (SELECT sum(bytes)::bigint FROM ours) AS bytes,
       (SELECT json_agg(s ORDER BY s.name)::text FROM (
           SELECT format('%I.%I', schemaname, sequencename) AS name, start_value, last_value
           FROM pg_sequences) AS s) AS sequences,
       concat_ws(' ', {_MADE_AS}) AS made_as
"""
_OTHERS_END: Final = """
SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND pid <> ALL ($1)
  AND backend_type = 'client backend'
"""


@dataclass
class Pristine:
    """What a fresh copy of the template is, by which a used one is judged and restored."""

    made_as: str = ""
    sequences: str = ""
    rows: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Databases:
    """Copies of the template, in a way that `CREATE DATABASE` knows."""

    server_url: str
    psql: Psql
    template: str
    way: str

    def copy(self) -> str:
        """The name of a new one."""
        name = f"taximeter_test_{uuid.uuid4().hex[:12]}"
        self.psql.run(f'CREATE DATABASE "{name}" TEMPLATE "{self.template}" STRATEGY {self.way}')
        return name

    def url(self, name: str) -> str:
        return with_database(self.server_url, name)

    def drop(self, name: str) -> None:
        """With all its sessions."""
        self.psql.run(f'DROP DATABASE "{name}" WITH (FORCE)')

    @contextmanager
    def made(self) -> Iterator[str]:
        """The URL of one for a single test."""
        name = self.copy()
        yield self.url(name)
        self.drop(name)


class SharedDatabase:
    """The database of a file."""

    def __init__(self, databases: Databases, pristine: Pristine) -> None:
        self._databases = databases
        self._pristine = pristine
        self._name = ""
        self._admin: Any = None
        self.sessions: Sessions | None = None

    async def clean(self) -> str:
        """The URL of one as the migrations made it."""
        if self._name and not await self._could_be_emptied():
            await self.close()
        if not self._name:
            await self._make()
        return self._databases.url(self._name)

    async def close(self) -> None:
        if not self._name:
            return
        if self.sessions is not None:
            await self.sessions.end()
            self.sessions = None
        await self._disconnect()
        self._databases.drop(self._name)
        self._name = ""

    async def _make(self) -> None:
        self._name = self._databases.copy()
        if not self._pristine.made_as:
            await self._learn()
        self.sessions = Sessions(self._name)
        self.sessions.begin()

    async def _connect(self) -> None:
        if self._admin is None:
            self._admin = await asyncpg.connect(
                self._databases.url(self._name),
                server_settings={"synchronous_commit": "off", "lock_timeout": "20s"},
            )

    async def _disconnect(self) -> None:
        if self._admin is not None:
            await self._admin.close()
            self._admin = None

    async def _learn(self) -> None:
        await self._connect()
        found = await self._admin.fetchrow(_LOOK)
        self._pristine.made_as, self._pristine.sequences = found["made_as"], found["sequences"]
        for name in found["used"]:
            self._pristine.rows[name] = await self._rows(name)
        await self._disconnect()  # Nobody is there but the test, as in any other new one.

    async def _rows(self, name: str) -> list[str]:
        rows = await self._admin.fetch(f"SELECT t::text AS row FROM ONLY {name} AS t ORDER BY 1")
        return [one["row"] for one in rows]

    async def _could_be_emptied(self) -> bool:
        try:
            return await self._emptied()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False  # Whatever a test has done to it or to our session there.

    async def _emptied(self) -> bool:
        assert self.sessions is not None
        await self._connect()
        await self._admin.fetch(_OTHERS_END, self.sessions.pids)
        found = await self._admin.fetchrow(_LOOK)
        if found["made_as"] != self._pristine.made_as or found["bytes"] > _BYTES_MAX:
            return False
        seeded = [one for one in found["used"] if one in self._pristine.rows]
        changed = [one for one in seeded if await self._rows(one) != self._pristine.rows[one]]
        emptied = [one for one in found["used"] if one not in self._pristine.rows]
        # As a replica does it: nothing of ours looks on.
        statements = ["BEGIN", "SET LOCAL session_replication_role = replica"]
        statements += [f"DELETE FROM ONLY {one}" for one in emptied + changed]
        for one in changed:
            for row in self._pristine.rows[one]:
                text = row.replace("'", "''")
                statements.append(
                    f"INSERT INTO {one} SELECT (r).* FROM (SELECT '{text}'::{one}) AS t(r)"
                )
        if found["sequences"] != self._pristine.sequences:
            statements.append(_SEQUENCES.format(self._pristine.sequences))
        await self._admin.execute("; ".join([*statements, "COMMIT"]))
        return True


_SEQUENCES: Final = """
SELECT setval(name::regclass, coalesce(last_value, start_value), last_value IS NOT NULL)
FROM json_to_recordset('{}') AS s(name text, start_value bigint, last_value bigint)
"""
