"""Exports as the API streams them: all rows, of nobody else, in little memory, and never a part of
them as if it were the whole.
"""

from __future__ import annotations

import csv
import gc
import io
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import asyncpg
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exported_days import CHARGES, ODD_NAME, today
from support.world import BILLING, World

from taximeter.api.billing import exported
from taximeter.api.web.fair_shares import FairShares
from taximeter.meter.wire.refusals import RETRY_AFTER_S
from taximeter.settler.exports import formats, reading
from taximeter.settler.exports.columns import Terms
from taximeter.settler.exports.kinds import KINDS
from taximeter.settler.settling.read_your_writes import AsOf

DAY = today() - timedelta(days=1)
RANGE = f"start_date={DAY}&end_date={DAY}"
ALL = f"{BILLING}/system/exports"


def of(org_id: str) -> str:
    return f"{BILLING}/orgs/{org_id}/exports"


async def get(world: World, path: str, by: str = "boss") -> httpx.Response:
    return await world.client.get(path, headers=world.auth(by, system_admin=by == "root"))


def lines(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def table(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return list(pq.read_table(pa.BufferReader(answer.content)).to_pylist())


async def charge(world: World, org_id: str, number: int, *, rollups: bool = True) -> None:
    """Charges of all hours of DAY."""
    start = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    async with world.stores.pool.acquire() as conn, conn.transaction():
        if not rollups:
            await conn.execute("SET LOCAL session_replication_role = replica")
        await conn.execute(CHARGES, start, number, timedelta(days=1), org_id, ODD_NAME)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and groups of a few rows."""
    for module in (reading, exported):
        monkeypatch.setattr(module, "PAGE_ROWS", 7)
    monkeypatch.setattr(formats, "GROUP_ROWS", 10)


async def test_every_row_once_and_none_of_others(world: World, small: None) -> None:
    await world.funded("ann", 20.0)
    assert (await world.subscribe("zeta", "other")).status_code == 200
    for org_id in ("acme", "zeta"):
        await charge(world, org_id, 50)
    rows = lines(await get(world, f"{of('acme')}/requests?{RANGE}"))
    assert sorted(int(row["request_id"][1:]) for row in rows) == list(range(1, 51))
    assert {row["org_id"] for row in rows} == {"acme"}
    assert {row["user_id"] for row in rows} == {"ann", "'-bob"}
    assert f"'{ODD_NAME}" in {row["service_name"] for row in rows}
    exact = table(await get(world, f"{of('acme')}/requests?{RANGE}&format=parquet"))
    assert [row["request_id"] for row in exact] == [row["request_id"] for row in rows]
    assert {row["user_id"] for row in exact} == {"ann", "-bob"}
    assert sum(row["used_millicredits"] for row in exact) == sum(range(1, 51)) * 1001
    assert exact[0]["input_tokens"] * 2 == exact[0]["output_tokens"] == 100
    assert (exact[0]["price_version"], str(exact[0]["price_dated"])) == ("v7", "2026-01-02")

    usage = table(await get(world, f"{of('acme')}/usage?{RANGE}&format=parquet"))
    assert sum(row["requests"] for row in usage) == 50
    assert len({(row["user_id"], row["service_name"]) for row in usage}) == len(usage) > 7
    ledger = lines(await get(world, f"{of('acme')}/ledger"))
    assert [row["change_credits"] for row in ledger] == ["20.000"]
    audit = lines(await get(world, f"{of('acme')}/audit"))
    listed = (await get(world, f"{BILLING}/orgs/acme/audit")).json()["entries"]
    assert [int(row["id"]) for row in audit] == [one["id"] for one in reversed(listed)]
    # Of the system: both, one after the other.
    everything = lines(await get(world, f"{ALL}/requests?{RANGE}", by="root"))
    assert [row["org_id"] for row in everything] == ["acme"] * 50 + ["zeta"] * 50
    assert (await get(world, f"{of('zeta')}/usage")).status_code == 404


async def test_what_it_refuses_names_the_field_and_the_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.funded("ann", 20.0)
    for query, field in (
        ("usage?start_date=2025-01-01&end_date=2026-12-01", "start_date"),
        ("usage?start_date=9999-12-01&end_date=9999-12-31", "end_date"),
        ("usage?format=xlsx", "format"),
        ("secrets", "kind"),
        ("focus", "kind"),
    ):
        answer = await get(world, f"{of('acme')}/{query}")
        assert answer.status_code in (400, 422), answer.text
        assert field in answer.text
    shares: FairShares = world.app.state.services.exports
    taken = [shares.take(f"org-{nth}", "x", 1) for nth in range(shares.total)]
    answer = await get(world, f"{of('acme')}/usage")
    assert (answer.status_code, "exports" in answer.text) == (429, True)
    for share in taken:
        share.give_back()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = await get(world, f"{of('acme')}/usage?format=parquet")
    assert (answer.status_code, "[exports]" in answer.text) == (400, True)
    assert len(lines(await get(world, f"{of('acme')}/usage"))) == 0
    assert shares.used == 0


async def test_what_fails_in_the_middle_is_not_taken_for_the_whole(
    world: World, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.funded("ann", 20.0)
    await charge(world, "acme", 50)
    services = world.app.state.services
    pages = 0
    read = services.reports.read

    async def fails(work: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages > 3:
            raise asyncpg.ConnectionDoesNotExistError("gone")
        return await read(work)

    with monkeypatch.context() as patched:
        patched.setattr(services.reports, "read", fails)
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            await get(world, f"{of('acme')}/requests?{RANGE}")
        # Before anything was sent it is a refusal like any other.
        assert (await get(world, f"{of('acme')}/requests?{RANGE}")).status_code == 503
    assert pages > 4
    assert services.exports.used == 0
    assert len(lines(await get(world, f"{of('acme')}/requests?{RANGE}"))) == 50


@pytest.mark.parametrize("scope", ["organization", "system"])
async def test_days_that_are_not_all_booked_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    """Charges that were acknowledged are in every export, or the export is refused."""
    await world.funded("ann", 20.0)
    await charge(world, "acme", 3)
    path, by = (of("acme"), "boss") if scope == "organization" else (ALL, "root")
    booked = datetime(DAY.year, DAY.month, DAY.day, 1, tzinfo=UTC)
    elsewhere = booked.astimezone(timezone(-timedelta(hours=5)))
    before, after = DAY - timedelta(days=1), DAY + timedelta(days=1)

    async def asked(found: AsOf, last: Any) -> httpx.Response:
        async def looked(*_: Any) -> AsOf:
            return found

        with monkeypatch.context() as patched:
            patched.setattr(services.catch_up, "of_org", looked)
            patched.setattr(services.catch_up, "of_all", looked)
            query = f"start_date={before}&end_date={last}"
            return await get(world, f"{path}/requests?{query}", by=by)

    services = world.app.state.services
    for found, last, status in (
        # Nobody knows how far they are booked: no day is known to be whole.
        (AsOf(False, None), before, 503),
        # The day until which they are booked is not over, and nor is any after it.
        (AsOf(False, booked), DAY, 503),
        (AsOf(False, booked), after, 503),
        # The day in UTC counts, wherever the clock stands that was read.
        (AsOf(False, elsewhere), before, 200),
        # All is booked of the days before it.
        (AsOf(False, booked), before, 200),
        (AsOf(True, booked), after, 200),
    ):
        answer = await asked(found, last)
        assert answer.status_code == status, (found, last, answer.text)
        if status == 503:
            assert answer.headers["Retry-After"] == str(RETRY_AFTER_S)
            assert "not all booked yet" in answer.text
    assert services.exports.used == 0


async def test_who_does_not_read_on_keeps_no_connection(world: World, small: None) -> None:
    await world.funded("ann", 20.0)
    await charge(world, "acme", 50)
    services = world.app.state.services
    async with world.client.stream(
        "GET", f"{of('acme')}/requests?{RANGE}", headers=world.auth("boss")
    ) as answer:
        async for _ in answer.aiter_raw(16):
            break
        # All connections can be had meanwhile.
        pool = services.pool
        held = [await pool.acquire() for _ in range(pool.get_max_size())]
        for conn in held:
            await pool.release(conn)


async def most_memory(world: World, form: str) -> tuple[int, int, int]:
    """Rows of the file, its bytes, and the most bytes that were allocated while it was made."""
    services = world.app.state.services

    async def read(work: Any) -> Any:
        return (await services.reports.read(work))[0]

    rows, length, tail = 0, 0, b""
    writer = formats.make_writer(KINDS["requests"], form)
    asked = exported.Asked("requests", DAY, DAY, "acme")
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        async for piece in exported.export(asked, writer, read, services.charges, Terms()):
            rows += piece.count(b"\r\n")
            length += len(piece)
            tail = piece[-8:]
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert tail.endswith(b"\r\n" if form == "csv" else b"PAR1")
    return rows - 1, length, most


@pytest.mark.parametrize(
    "rows", [4_000, pytest.param(250_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
async def test_memory_does_not_grow_with_the_rows(
    world: World, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few pages as CSV, a group of rows as Parquet; whatever comes after them."""
    if rows < 100_000:
        for module in (reading, exported):
            monkeypatch.setattr(module, "PAGE_ROWS", 200)
        monkeypatch.setattr(formats, "GROUP_ROWS", 500)
    await world.funded("ann", 20.0)
    most = {}
    for part in (rows // 5, rows - rows // 5):
        await charge(world, "acme", part, rollups=False)
        for form in ("csv", "parquet"):
            found = await most_memory(world, form)
            most.setdefault(form, []).append(found[2])
            if form == "csv":
                assert found[0] == (rows // 5 if part == rows // 5 else rows)
    for form, (few, many) in most.items():
        assert many < few * 1.6, (form, few, many)
