"""Exports of days: complete, the same for the same facts, written again when these change, and
whole whatever is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from exported_days import ALL, ODD_NAME, Days, today
from structlog.testing import capture_logs

from taximeter.settler.archive import months as archives
from taximeter.settler.archive.places import open_place
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.exports import days as days_module
from taximeter.settler.exports import formats, reading
from taximeter.settler.exports.by_itself import exporting
from taximeter.settler.exports.compare import Compared
from taximeter.settler.exports.days import NotExported, NotYet, due_days
from taximeter.settler.proof.reconcile import CouldNotLook
from taximeter.settler.proof.seals import alone
from taximeter.settler.worker.jobs import Settler
from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.work_metrics import WorkMetrics


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and groups of a few rows."""
    monkeypatch.setattr(reading, "PAGE_ROWS", 7)
    monkeypatch.setattr(formats, "GROUP_ROWS", 10)


def contents(days: Days) -> dict[str, bytes]:
    root = Path(days.place.url)
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


async def due(days: Days) -> list[Any]:
    async with exporting(days.settings()) as conn:
        return await due_days(conn, days.place, ALL, days.all)


async def test_a_day_is_whole_and_the_same_whenever_it_is_written(days: Days, small: None) -> None:
    first, _, quiet = days.all
    done = await days.write(first)
    rows = {"usage": 24, "requests": 60, "ledger": 4, "audit": 2, "focus": 26}
    assert (done.revision, done.rows) == (1, rows)
    requests = days.table(first, "requests")
    assert sorted((one["org_id"], one["request_id"]) for one in requests) == sorted(
        (org, f"r{nth}") for org in ("acme", "zeta") for nth in range(1, 31)
    )
    assert all(one["created_at"].date() == first for one in requests)
    sums = {kind: one.sums.millicredits for kind, one in days.manifest(first).kinds.items()}
    used = 2 * 1001 * sum(range(1, 31))
    assert sums == {"usage": used, "requests": used, "focus": used, "ledger": 1996, "audit": 0}
    assert sum(one["used_credits"] for one in requests) == Decimal(used) / 1000
    # CSV says the same, but for what a spreadsheet would run; numbers are left as they are.
    lines = days.lines(first, "requests")
    assert [int(one["used_millicredits"]) for one in lines] == [
        one["used_millicredits"] for one in requests
    ]
    assert {one["user_id"] for one in lines} == {"ann", "'-bob"}
    assert f"'{ODD_NAME}" in {one["service_name"] for one in lines}
    assert {one["change_credits"] for one in days.lines(first, "ledger")} == {"1.005", "-0.007"}
    assert days.lines(first, "ledger")[0]["reference"] == f"'=day {first}"
    assert [one["org_id"] for one in days.table(first, "audit")] == ["acme", None]

    written = contents(days)
    assert await days.write(first) == replace(done, rows={})
    assert contents(days) == written
    # Also from nothing: the same bytes, but for when it was written.
    await asyncio.to_thread(Path(days.place.url).rename, Path(days.place.url).with_name("other"))
    await days.write(first)
    assert {name: one for name, one in contents(days).items() if "manifests" not in name} == {
        name: one for name, one in written.items() if "manifests" not in name
    }
    # A day without anything is written as well: a file that is missing is something else.
    await days.write(quiet)
    assert days.table(quiet, "requests") == days.lines(quiet, "usage") == []


async def test_what_has_changed_is_written_again_as_the_next_revision(days: Days) -> None:
    first, second, _ = days.all
    for day in days.all:
        await days.write(day)
    assert await due(days) == []
    assert (await days.compare()).wrong == []
    before = days.manifest(first)
    await days.charge(first)
    await days.world.pool.execute(
        "DELETE FROM credit_usage_attribution WHERE org_id = 'zeta' AND created_at >= $1"
        " AND created_at < $2 AND request_id = 'r7'",
        *reading.bounds(second, second),
    )
    assert await due(days) == [first, second]
    wrong = (await days.compare()).wrong
    assert f"{first}: requests has {before.kinds['requests'].sums}, the books have" in str(wrong)
    assert len(wrong) == 6
    # What is not changed is left as it is: the ledger has neither.
    assert (await days.write(first)).rows == {"usage": 24, "requests": 61, "focus": 26}
    await days.write(second)
    manifest = days.manifest(first)
    assert manifest.revision == 2
    assert manifest.earlier == (before.said(),)
    assert manifest.kinds["ledger"] == before.kinds["ledger"]
    assert await due(days) == []
    assert await days.compare() == Compared(days=3, rows=116 * 2)
    # Also what nobody wants any more: nothing that lies there says what is not so.
    await days.charge(first, "zeta")
    fewer = replace(ALL, kinds=("audit",), formats=("parquet",))
    async with exporting(days.settings()) as conn:
        assert await due_days(conn, days.place, fewer, days.all) == [first]
    assert (await days.write(first, fewer)).rows == {"usage": 24, "requests": 62, "focus": 26}
    assert len(days.lines(first, "requests")) == len(days.table(first, "requests")) == 62
    assert (await days.compare()).wrong == []


@pytest.mark.parametrize("step", ["file", "third file", "manifest", "rename", "read"])
async def test_what_is_killed_anywhere_is_whole_after_the_next_run(
    days: Days, small: None, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is written first, and as it is written again."""
    first = days.first
    for revision in (1, 2):
        calls = 0

        def killed(real: Callable[..., Any], at: int) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls >= at:
                    raise asyncio.CancelledError
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patched:
            place = type(days.place)
            if step == "file":
                patched.setattr(place, "write_file", killed(place.write_file, 1))
            elif step == "third file":
                patched.setattr(place, "write_file", killed(place.write_file, 3))
            elif step == "manifest":
                patched.setattr(place, "write", killed(place.write, 1))
            elif step == "rename":
                patched.setattr(Path, "rename", killed(Path.rename, 2))
            else:
                patched.setattr(days_module._Spooled, "add", killed(days_module._Spooled.add, 4))
            with pytest.raises(asyncio.CancelledError):
                await days.write(first)
        assert first in await due(days)
        assert (await days.write(first)).revision == revision
        assert await due(days) == days.all[1:]
        assert (await days.compare()).wrong == []
        assert not [name for name in contents(days) if name.endswith(".new")]
        await days.charge(first)


async def test_a_file_that_is_not_what_the_books_say_is_not_written(
    days: Days, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = reading.rows_of_day

    async def loses_a_page(conn: Any, kind: str, day: Any) -> Any:
        nth = 0
        async for rows in real(conn, kind, day):
            nth += 1
            if (kind, nth) != ("requests", 2):
                yield rows

    monkeypatch.setattr(days_module, "rows_of_day", loses_a_page)
    with pytest.raises(NotExported, match=r"requests comes to 53 rows .* books say 60 rows"):
        await days.write(days.first)
    assert not await asyncio.to_thread(Path(days.place.url).exists)


async def test_check_finds_what_is_missing_or_altered(days: Days) -> None:
    nothing = await days.compare()
    assert "there are no exports" in nothing.unread[0]
    first, second, quiet = days.all
    for day in days.all:
        await days.write(day)
    manifest = days.manifest(second)
    csv_file = manifest.kinds["usage"].files["csv"].name
    parquet = manifest.kinds["ledger"].files["parquet"].name
    content = days.place.read(csv_file)
    days.place.write(csv_file, content.replace(b"1001", b"1002", 1) + b"\r\n")
    root = Path(days.place.url)
    await asyncio.to_thread((root / parquet).unlink)
    await asyncio.to_thread((root / days.manifest(quiet).name).write_text, "{}")
    assert (await days.compare()).wrong == [
        f"{second}: {csv_file} is not what its manifest says: its digest differs",
        f"{second}: {parquet} is missing",
        f"{quiet}: manifests/{quiet}.json is not a manifest of exports",
    ]
    assert await due(days) == [quiet]
    with pytest.raises(NotExported, match="is not a manifest of exports: move it away"):
        await days.write(quiet)
    for day in (quiet, second):
        await asyncio.to_thread((root / f"manifests/{day}.json").unlink)
    await days.write(quiet)
    assert (await days.compare()).wrong == [
        f"{second} was not exported, and {first} and {quiet} were"
    ]


def settler(
    days: Days,
    metrics: WorkMetrics | None = None,
    activity: LoopActivity | None = None,
    **more: Any,
) -> Settler:
    settings = days.settings(**more)
    made = Settler(days.world.stores, settings, metrics=metrics, activity=activity)
    assert "export" in {loop.name for loop in made.loops()}
    return made


async def test_settlers_export_what_is_over_by_themselves(days: Days) -> None:
    """Two at once: yesterday first; then whatever is missing since the first day that is there."""
    yesterday = today() - timedelta(days=1)
    metrics, activity = WorkMetrics(), LoopActivity()
    activity.expect("export", 600.0)
    first, second = settler(days, metrics, activity), settler(days)
    with capture_logs() as logged:
        await asyncio.gather(first.export(), second.export())
        assert [one["day"] for one in logged if "day" in one] == [str(yesterday)]
    assert days.table(yesterday, "requests") == []
    await days.write(days.first)
    # What of these days may still be on its way is waited for, and so is a Redis that is away.
    org = await days.world.charge("ann", 5)
    with capture_logs() as logged:
        await first.export()
    assert "may wait to be settled" in str(logged)
    assert not [one for one in logged if one["log_level"] == "error"], org
    await days.world.settle()
    with capture_logs() as logged:
        await asyncio.gather(first.export(), second.export(), first.export())
        written = [one["day"] for one in logged if "day" in one]
    assert written == [str(yesterday - timedelta(days=back)) for back in (3, 2, 1)]
    assert (await days.compare()).wrong == []
    families = {family.name: family for family in metrics.families()}
    until = families["taximeter_exported_until_timestamp_seconds"].samples[0].value
    assert until == reading.bounds(yesterday, yesterday)[1].timestamp()


async def test_a_copy_exports_nothing(days: Days) -> None:
    await days.world.pool.execute(
        "UPDATE taximeter.installation SET silent_since = now(), silent_because = 'a test'"
    )
    with capture_logs() as logged:
        await settler(days).export()
    assert "may be a copy" in str(logged)
    assert not await asyncio.to_thread(Path(days.place.url).exists)


async def test_days_lie_in_s3(days: Days, bucket: str) -> None:
    days.place = open_place(bucket)
    await days.write(days.first)
    await days.charge(days.first)
    assert (await days.write(days.first)).revision == 2
    assert await days.compare() == Compared(days=1, rows=117)
    name = days.manifest(days.first).kinds["usage"].files["csv"].name
    days.place.write(name, b"x")
    assert "its digest differs" in str((await days.compare()).wrong)


def test_what_exports_need_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="needs TAXIMETER_EXPORT_CREDIT_PRICE"):
        SettlerSettings(export_kinds=("focus",))
    with pytest.raises(ValueError, match="export_url"):
        SettlerSettings(export_url="https://example.com/x")
    with pytest.raises(ValueError, match="decimal places"):
        SettlerSettings(export_credit_price=Decimal("0.0000001"))
    monkeypatch.setattr("taximeter.settler.books.settings.find_spec", lambda name: None)
    for made in ({"export_url": "s3://bucket/x"}, {"export_url": "/exports"}):
        with pytest.raises(ValueError, match=r"pyarrow.*\[exports\]"):
            SettlerSettings(**made)
    assert SettlerSettings(export_url="/exports", export_formats=("csv",)).export_url == "/exports"


def test_a_cell_says_no_formula_and_every_number_exactly() -> None:
    for text in ("=1", "+1", "-1", "@x", "\tx", "\rx"):
        assert formats.csv_cell(text) == f"'{text}"
    assert [formats.csv_cell(one) for one in (-7, Decimal("-0.007"), None, True)] == [
        *("-7", "-0.007", "", "true")
    ]


async def test_who_exports_keeps_nobody_from_the_books(days: Days) -> None:
    """Exports of a long time, a month on its way to the archive and looks at the books go on at the
    same time; two of a kind do not.
    """
    settings = days.settings()
    pool = days.world.pool
    async with exporting(settings) as conn, exporting(settings) as second, alone(pool):
        await days_module.take_turn(conn)
        await archives.take_turn(conn)
        assert await conn.fetchval(days_module.SQL["is_ours"])
        with pytest.raises(NotYet, match="another process writes exports"):
            await days_module.take_turn(second)
        with pytest.raises(archives.NotArchived):
            await archives.take_turn(second)
        with pytest.raises(CouldNotLook):
            async with alone(pool):
                pass
