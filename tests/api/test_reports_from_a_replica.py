"""Reports and lists are read from a replica as soon as it has what the primary had when they were
asked for; a replica that lags, hangs, is away or is of something else is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import httpx
import pytest
from support.postgres_once import PostgresOnce
from support.replica import standby_of, tell
from support.world import BILLING, World

from taximeter.api.embedded.postgres import DATABASE, EmbeddedPostgres
from taximeter.api.running import replica_reads
from taximeter.api.running.replica_reads import Reports
from taximeter.meter import Usage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LISTS = {
    "usage": f"{BILLING}/credits/acme/usage",
    "requests": f"{BILLING}/credits/acme/requests",
    "csv": f"{BILLING}/credits/acme/requests.csv",
    "history": f"{BILLING}/acme/history",
    "invoices": f"{BILLING}/billing/acme/invoices",
    "audit": f"{BILLING}/orgs/acme/audit",
    "moves": f"{BILLING}/credits/acme/moves",
    "system": f"{BILLING}/billing/system",
}
NEVER = {
    "pool": f"{BILLING}/credits/acme",
    "allocations": f"{BILLING}/credits/acme/allocations",
    "dashboard": f"{BILLING}/billing/org/acme",
    "members": f"{BILLING}/orgs/acme/members",
}


@pytest.fixture
def primary(tmp_path: Path, migrated_postgres: PostgresOnce) -> Iterator[EmbeddedPostgres]:
    with migrated_postgres(tmp_path / "primary") as server:
        server.make_logins()
        yield server


@pytest.fixture
def replica(primary: EmbeddedPostgres, tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = standby_of(primary, tmp_path / "replica")
    yield server
    server.stop()


@pytest.fixture
def database_url(primary: EmbeddedPostgres) -> str:
    return primary.url


@pytest.fixture
def app_database_url(primary: EmbeddedPostgres) -> str:
    return primary.url_of(DATABASE, "api")


@pytest.fixture
def settler_database_url(primary: EmbeddedPostgres) -> str:
    return primary.url_of(DATABASE, "settler")


@pytest.fixture
def api_options(replica: EmbeddedPostgres) -> dict[str, Any]:
    url = replica.url_of(DATABASE, "api")
    return {"reports_database_url": url, "usage_wait_s": 30.0}


async def ask(world: World, name: str) -> httpx.Response:
    path = (LISTS | NEVER)[name]
    headers = world.root if name == "system" else world.auth("boss")
    answer = await world.client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def used(world: World) -> tuple[str, float]:
    """Where the report of usage was read, and what it says."""
    answer = await ask(world, "usage")
    assert answer.json()["complete"] is True
    return answer.headers["X-Read-From"], answer.json()["total_credits_used"]


def try_again(world: World) -> None:
    """As if a while had passed since the replica was away."""
    reports: Reports = world.app.state.services.reports
    reports._rests_until = 0.0


async def test_everything_that_was_there_is_in_the_answer_wherever_it_is_read(
    world: World, replica: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a machine of any speed.
    monkeypatch.setattr(replica_reads, "CATCHES_UP_S", 60.0)
    await world.funded("ann", 50.0)
    meter = await world.app.state.services.meters.get()

    async def charge() -> None:
        usage = Usage(service_type="llm_inference", service_name="gpt-4o")
        await meter.charge("acme", "ann", 1000, usage=usage)

    for charged in (1.0, 2.0, 3.0):
        await charge()
        assert await used(world) == ("replica", charged)
    before = datetime.now(UTC)
    for name in LISTS:
        answer = await ask(world, name)
        assert answer.headers["X-Read-From"] == "replica", name
        # One clock on one machine.
        assert before <= datetime.fromisoformat(answer.headers["X-As-Of"]) <= datetime.now(UTC)
    for name in NEVER:
        assert "X-Read-From" not in (await ask(world, name)).headers, name

    await tell(replica, "SELECT pg_wal_replay_pause()")
    await charge()
    monkeypatch.setattr(replica_reads, "CATCHES_UP_S", 0.1)
    assert await used(world) == ("primary", 4.0)
    monkeypatch.setattr(replica_reads, "CATCHES_UP_S", 60.0)
    await tell(replica, "SELECT pg_wal_replay_resume()")
    try_again(world)
    assert await used(world) == ("replica", 4.0)

    os.kill(replica.pid, SIGSTOP)
    await charge()
    await world.app.state.services.reports.replica.expire_connections()
    monkeypatch.setattr(replica_reads, "CATCHES_UP_S", 0.1)
    try_again(world)
    assert await used(world) == ("primary", 5.0)
    monkeypatch.setattr(replica_reads, "CATCHES_UP_S", 60.0)
    os.kill(replica.pid, SIGCONT)
    try_again(world)
    assert await used(world) == ("replica", 5.0)

    replica.kill()
    try_again(world)
    await charge()
    assert await used(world) == ("primary", 6.0)
    await world.prove()
