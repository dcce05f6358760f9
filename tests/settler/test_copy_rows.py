"""The fast way to the ledger writes what the careful way writes, or leaves the run to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from settler_payloads import READABLE, UNREADABLE
from settler_world import PAYLOAD, World
from support.examples import examples_or

from taximeter.settler.books.stores import Connection
from taximeter.settler.settling.columns import ATTRIBUTION_COLUMNS, CHARGED_COLUMNS
from taximeter.settler.settling.copy_rows import read_copy_rows
from taximeter.settler.settling.event_rows import attribution_table, book_copy_rows, book_events
from taximeter.settler.settling.payloads import UNREADABLE_SERVICE_TYPE, read_payload
from taximeter.settler.settling.stream import Run

ESCAPES = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}


async def decoded(chunks: AsyncIterator[bytes], columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows as Postgres reads them from COPY text, in the order of events."""
    rows = []
    text = b"".join([chunk async for chunk in chunks]).decode()
    for line in text.split("\n")[:-1]:
        cells = line.split("\t")
        assert len(cells) == len(columns)
        for i, cell in enumerate(cells):
            # Pairs are read from the left, so a doubled backslash never begins another escape.
            parts = cell.split("\\\\")
            for escape, character in list(ESCAPES.items())[1:]:
                parts = [part.replace(escape, character) for part in parts]
            cells[i] = "\\".join(parts)
        rows.append(dict(zip(columns, cells, strict=True)))
    return sorted(rows, key=lambda row: int(row["seq"]))


def one_run(*entries: list[bytes], skip: int = 0) -> Run:
    run = Run(3, 10, 10)
    seq = 10 + skip
    for lines in entries:
        seq += len(lines)
        run.add(f"3-{seq}".encode(), {b"t": b"1790000000000", b"v1": b"\n".join(lines)})
    return run


async def agree(run: Run) -> bool:
    """Whether the fast way takes the run; when it does, both ways must say the same."""
    events, bad_lines = run.parse()
    copied = await read_copy_rows(7, run)
    if copied is None:
        return False
    assert bad_lines == []
    assert copied.events == len(events)
    charged = await decoded(copied.charged_text(), CHARGED_COLUMNS)
    attribution = await decoded(copied.attribution_text(), ATTRIBUTION_COLUMNS)
    amounts: dict[tuple[str, str], int] = {}
    for event, claim, row in zip(events, charged, attribution, strict=True):
        amounts.setdefault((event.org_id, event.user_id), 0)
        amounts[event.org_id, event.user_id] += event.amount
        for one in (claim, row):
            found = (one["org_id"], one["user_id"], one["request_id"], one["shard"], one["epoch"])
            assert found == (event.org_id, event.user_id, event.request_id, "7", "3")
            assert int(one["seq"]) == event.seq
            assert one["created_at"] == "2026-09-21T14:13:20+00:00"
        assert (int(claim["phase"]), int(claim["amount"])) == (event.phase, event.amount)
        assert (int(row["credits_used"]), int(row["reserved"])) == (event.amount, event.reserved)
        assert row["late"] == ("f" if event.flags == "-" else "t")
        purpose = read_payload(event.payload)
        written = (row["service_type"], row["service_name"], row["request_metadata"])
        # Metadata that is no JSON is passed on: Postgres refuses it, and the run is read again.
        if purpose.service_type != UNREADABLE_SERVICE_TYPE:
            assert written == purpose
    assert copied.amounts == amounts
    return True


GOOD = [
    f"commit\tacme/ann\tacme/r1\t50\t100\t-\t{PAYLOAD}".encode(),
    f"charge\tother/a/b \\ ü\tother/r2\t0\t0\tlate\t{PAYLOAD}".encode(),
    b"expire\tacme/ann\tacme/r1\t1000000000000\t007\trest\t",
]


async def test_well_formed_lines_go_the_fast_way() -> None:
    assert await agree(one_run(GOOD, GOOD[:1], GOOD[1:], skip=4))


@pytest.mark.parametrize("payload", READABLE + UNREADABLE + ["", '{"type":"\\u00fc","name":"b"}'])
async def test_no_payload_keeps_its_neighbours_from_the_fast_way(payload: str) -> None:
    if "\t" not in payload and "\r" not in payload:
        line = b"charge\tacme/ann\tacme/r9\t1\t0\t-\t" + payload.encode()
        assert await agree(one_run([GOOD[0], line, GOOD[1]]))


DAMAGE = [
    (b"commit", b"refund"),
    (b"acme/ann", b"acme"),
    (b"acme/ann", b"/ann"),
    (b"acme/ann", b"acme/"),
    (b"acme/ann", b"acme/\xff"),
    (b"acme/ann", b"acme/a\x01n"),
    (b"acme/r1", b"other/r1"),
    (b"acme/r1", b"acmer1"),
    (b"acme/r1", b"acme/"),
    (b"acme/r1", b"acme/r 1"),
    (b"acme/r1", "acme/r١".encode()),
    (b"acme/r1", b"acme/" + b"r" * 129),
    (b"\t50\t", b"\t-50\t"),
    (b"\t50\t", b"\t\t"),
    (b"\t50\t", "\t٥\t".encode()),
    (b"\t50\t", b"\t1000000000001\t"),
    (b"\t50\t", b"\t0000000000000050\t"),
    (b"\t100\t", b"\tmany\t"),
    (b"\t-\t", b"\tnew\t"),
    (b"\t-\t", b"\t"),
    (b"\t-\t", b"\t-\tcommit\t"),
    (b"acme/ann", b"acme/a\rn"),
    (b"\t50\t", b"\n50\t"),
    (b"commit\t", b"commit\n"),
]


@pytest.mark.parametrize(("intact", "damaged"), DAMAGE)
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_damaged_line_is_looked_at(intact: bytes, damaged: bytes, place: int) -> None:
    lines = [GOOD[1], GOOD[1]]
    lines.insert(place, GOOD[0].replace(intact, damaged, 1))
    assert not await agree(one_run(lines))


async def test_an_entry_of_unusual_shape_is_looked_at() -> None:
    for entry_id, fields in (
        (b"3-11", {b"v9": b"future"}),
        (b"3-11", {b"t": b"1", b"v1": b"\n".join(GOOD)}),
    ):
        run = Run(3, 10, 10)
        run.add(entry_id, fields)
        assert await read_copy_rows(7, run) is None


TOKENS = st.sampled_from(
    [b"\t", b"\n", b"\r", b"\\", b"\\\\", b"commit", b"acme/ann", b"acme/r1", b"50", b"-", b"{}",
     b"late", b"\x00", b"\xff", "ü".encode(), PAYLOAD.encode(), b'"', b"}"]
)  # fmt: skip


@given(
    line=st.sampled_from(GOOD),
    cut=st.floats(0, 1),
    length=st.integers(0, 12),
    put=st.lists(TOKENS, max_size=8).map(b"".join),
    neighbours=st.lists(st.sampled_from(GOOD), max_size=2),
)
async def test_both_ways_say_the_same_whatever_the_bytes(
    line: bytes, cut: float, length: int, put: bytes, neighbours: list[bytes]
) -> None:
    at = round(cut * len(line))
    changed = line[:at] + put + line[at + length :]
    text = b"\n".join([*neighbours, changed, GOOD[0]])
    await agree(one_run(text.split(b"\n")))


def exact(text: str) -> Any:
    """JSON with numbers compared by value: Postgres writes 1e3 as 1000."""
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


@pytest.mark.parametrize("times", [1, 3])
async def test_every_payload_is_booked_as_it_reads(world: World, times: int) -> None:
    """Through Postgres, which judges the metadata: alone, and among those of other events."""
    await world.organization("acme", ann=10**9)
    payloads = [one for one in UNREADABLE + READABLE if "\x00" not in one] * times
    lines = [
        f"charge\tacme/ann\tacme/r{i}\t1\t0\t-\t{payload}".encode()
        for i, payload in enumerate(payloads)
    ]
    if times == 1:
        for line in lines:
            await world.inject(line)
            await world.settle()
    else:
        await world.inject(*lines)
        await world.settle()
    rows: list[Any] = await world.pool.fetch(
        "SELECT service_type, service_name, request_metadata"
        " FROM credit_usage_attribution ORDER BY seq"
    )
    for row, payload in zip(rows, payloads, strict=True):
        purpose = read_payload(payload)
        assert (row[0], row[1]) == purpose[:2], payload
        assert exact(row[2]) == exact(purpose.metadata), payload


WRITTEN = (
    "SELECT * FROM taximeter.charged_requests",
    "SELECT tableoid::regclass, to_jsonb(a) - 'id' FROM credit_usage_attribution AS a",
    "SELECT org_id, user_id, allocated_credits, used_credits, is_active"
    " FROM user_credit_allocations",
    "SELECT org_id, total_credits, used_credits, available_credits FROM organization_credit_pools",
    "SELECT org_id, user_id, entry_seq, delta, kind, reference FROM taximeter.account_entries",
    "SELECT * FROM taximeter.usage_daily",
    "SELECT * FROM taximeter.usage_daily_by_org",
    "SELECT * FROM taximeter.usage_monthly",
    "SELECT * FROM taximeter.usage_monthly_by_org",
    "SELECT * FROM taximeter.usage_monthly_by_user",
    "SELECT * FROM taximeter.usage_names",
    "SELECT kind, what, hour, shard, epoch, rows, credits FROM taximeter.seal_changes",
)
"""Everything that booking writes, but for numbers that a sequence gives."""

SERVICE = st.text(st.characters(exclude_categories=["C"], exclude_characters='"\\'), max_size=12)
PAYLOADS = st.one_of(
    st.sampled_from([one for one in READABLE + UNREADABLE if "\x00" not in one] + ["", PAYLOAD]),
    st.builds(
        lambda kind, name, meta: json.dumps(
            {"type": kind, "name": name, "meta": meta}, separators=(",", ":"), ensure_ascii=False
        ),
        SERVICE.filter(bool),
        SERVICE,
        st.dictionaries(
            SERVICE, st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=2
        ),
    ),
)
LINES = st.builds(
    lambda kind, account, amount, reserved, flags, payload: (
        kind, account, amount, reserved, flags, payload,
    ),
    st.sampled_from(["commit", "charge", "expire"]),
    st.sampled_from(["acme/ann", "acme/a\\b ü/x", "acme/left", "other/ann", "other/nobody"]),
    st.one_of(st.integers(0, 10**12), st.integers(0, 100)),
    st.integers(0, 10**12),
    st.sampled_from(["-", "late", "rest"]),
    PAYLOADS,
)  # fmt: skip


async def written_by(conn: Connection, run: Run, *, as_text: bool) -> list[list[str]] | None:
    """What one of both ways writes for a run, and takes back; None when Postgres refuses it."""
    transaction = conn.transaction()
    await transaction.start()
    try:
        await conn.execute("SELECT set_config('taximeter.settling', 'on', true)")
        if as_text:
            rows = await read_copy_rows(0, run)
            assert rows is not None, "every line is well-formed"
            if not await book_copy_rows(conn, rows):
                return None
        else:
            events, bad_lines = run.parse()
            assert bad_lines == []
            assert await book_events(conn, 0, run.epoch, events) == []
        return [sorted(map(repr, await conn.fetch(query))) for query in WRITTEN]
    finally:
        await transaction.rollback()


@pytest.fixture
async def spenders(world: World) -> World:
    """Two organisations, each with two users and a third one who has left."""
    for org_id in ("acme", "other"):
        users = {"ann": 10**13, "a\\b ü/x": 10**13, "left": 0}
        await world.organization(org_id, total=10**14, **users)
    await world.pool.execute(
        "UPDATE user_credit_allocations SET is_active = false WHERE user_id = 'left'"
    )
    # Everything comes behind the seals, so that each row is noted.
    await world.pool.execute("UPDATE taximeter.seal_state SET announced = 'infinity'")
    return world


def milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


THIS_MONTH = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
FIRST_TIMES = {
    "a month without a partition": 1_590_000_000_000,
    "this month": milliseconds(THIS_MONTH),
    "the last millisecond of the month before, and this month": milliseconds(THIS_MONTH) - 1,
}


@pytest.mark.parametrize(
    ("times", "month"),
    [
        (["2026-10-31T23:59:59.999", "2026-10-01T00:00"], "2026_10"),
        (["2026-10-31T23:59:59.999", "2026-11-01T00:00"], None),
        (["2026-11-01T00:00", "2026-10-15T12:00", "2026-11-02T00:00"], None),
        (["2025-10-15T12:00", "2026-10-15T12:00"], None),
    ],
)
async def test_the_month_of_rows_is_the_one_that_all_are_of(
    times: list[str], month: str | None
) -> None:
    run = Run(3, 10, 10)
    for seq, time in enumerate(times, 11):
        at = milliseconds(datetime.fromisoformat(time).replace(tzinfo=UTC))
        run.add(f"3-{seq}".encode(), {b"t": b"%d" % at, b"v1": GOOD[0]})
    copied = await read_copy_rows(7, run)
    assert copied is not None
    assert copied.month == month


@given(
    entries=st.lists(st.lists(LINES, min_size=1, max_size=6), min_size=1, max_size=3),
    first=st.sampled_from(sorted(FIRST_TIMES)),
)
@settings(
    max_examples=examples_or(30),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_both_ways_write_the_same_rows(
    spenders: World, entries: list[list[Any]], first: str
) -> None:
    """In Postgres: charged requests, usage with its metadata, allocations that are active, closed
    or gone, pools, entries, every rollup, what is noted for the next seal.
    """
    run, number = Run(1, 0, 0), 0
    for place, entry in enumerate(entries):
        texts = []
        for kind, account, amount, reserved, flags, payload in entry:
            number += 1
            request = f"{account.partition('/')[0]}/r{number}"
            texts.append(
                "\t".join((kind, account, request, f"{amount}", f"{reserved}", flags, payload))
            )
        at = FIRST_TIMES[first] + place
        content = {b"t": b"%d" % at, b"v1": "\n".join(texts).encode()}
        run.add(f"1-{number}".encode(), content)
    async with spenders.pool.acquire() as conn:
        copied = await written_by(conn, run, as_text=True)
        assume(copied is not None)
        assert copied == await written_by(conn, run, as_text=False)


async def test_usage_of_one_month_goes_into_its_partition(spenders: World) -> None:
    """Only where the partition has each trigger that an insert into the whole table fires, and the
    right to write: else the whole table distributes the rows.
    """
    this_month = f"{THIS_MONTH:%Y_%m}"
    partition = ("taximeter", f"attribution_{this_month}")
    whole = ("public", "credit_usage_attribution")
    async with spenders.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        assert await attribution_table(conn, this_month) == partition
        assert await attribution_table(conn, "1999_12") == whole, "it has no partition"
        assert await attribution_table(conn, "rest") == whole, "other months have to move out of it"
        assert await attribution_table(conn, None) == whole, "it is not one month"
        for missing in (
            f"ALTER TABLE taximeter.{partition[1]} DISABLE TRIGGER usage_is_rolled_up",
            f"DROP TRIGGER usage_is_noted_behind ON taximeter.{partition[1]}",
            "CREATE TRIGGER another AFTER INSERT ON credit_usage_attribution"
            " FOR EACH STATEMENT EXECUTE FUNCTION taximeter.refuse('no')",
            f"ALTER TABLE credit_usage_attribution DETACH PARTITION taximeter.{partition[1]}",
            f"REVOKE INSERT ON taximeter.{partition[1]} FROM taximeter_settler;"
            " SET LOCAL ROLE taximeter_settler",
        ):
            point = conn.transaction()
            await point.start()
            await conn.execute(missing)
            assert await attribution_table(conn, this_month) == whole, missing
            await point.rollback()
        for role in ("taximeter_settler", "taximeter_app"):
            await conn.execute(f"SET LOCAL ROLE {role}")
            assert await attribution_table(conn, this_month) == partition, role
        await transaction.rollback()


async def test_a_partition_stays_while_usage_is_copied_into_it(spenders: World) -> None:
    this_month = f"{THIS_MONTH:%Y_%m}"
    pool = spenders.pool
    async with pool.acquire() as other, pool.acquire() as conn, conn.transaction():
        assert (await attribution_table(conn, this_month))[0] == "taximeter"
        async with other.transaction():
            await other.execute("SET LOCAL lock_timeout = '50ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await other.execute(
                    "ALTER TABLE credit_usage_attribution"
                    f" DETACH PARTITION taximeter.attribution_{this_month}"
                )
