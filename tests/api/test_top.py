"""`taximeter top` says what happened between two looks at /metrics, and who did not answer."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner
from support.waiting import eventually
from textual.widgets import DataTable, Static

from taximeter.api.commands import group
from taximeter.api.commands.top import screen
from taximeter.api.commands.top.figures import Between, Look

ROOT = Path(__file__).parents[2]
GATE = """
# TYPE taximeter_operations counter
taximeter_operations_total{{operation="charge",outcome="done"}} {charges}
taximeter_operations_total{{operation="reserve",outcome="done"}} 7
# TYPE taximeter_operation_seconds histogram
taximeter_operation_seconds_bucket{{operation="charge",le="0.001"}} {fast}
taximeter_operation_seconds_bucket{{operation="charge",le="0.01"}} {charges}
taximeter_operation_seconds_bucket{{operation="charge",le="+Inf"}} {charges}
# TYPE taximeter_refusals counter
taximeter_refusals_total{{surface="sidecar",reason="insufficient_credits"}} {refused}
taximeter_refusals_total{{surface="llm",reason="insufficient_credits"}} 3
# TYPE taximeter_waiting_operations gauge
taximeter_waiting_operations{{shard="0"}} 2
"""
SHARD = """
# TYPE taximeter_shard_open gauge
taximeter_shard_open{{shard="0"}} {is_open}
# TYPE taximeter_unsettled_events gauge
taximeter_unsettled_events{{shard="0"}} {unsettled}
# TYPE taximeter_settlement_lag_seconds gauge
taximeter_settlement_lag_seconds{{shard="0"}} 1.5
"""


def gate(charges: int = 0, fast: int = 0, refused: int = 0) -> str:
    return GATE.format(charges=charges, fast=fast, refused=refused)


def shard(unsettled: int = 0, is_open: int = 1) -> str:
    return SHARD.format(unsettled=unsettled, is_open=is_open)


def at(seconds: float, **texts: str | Exception) -> Look:
    read = Look.read(texts)
    return Look(seconds, read.told, read.away)


def test_counters_of_processes_add_up_a_second() -> None:
    between = Between(
        at(10, a=gate(100, 0, 5), b=gate(40)), at(12, a=gate(110, 0, 6), b=gate(60), c=gate(9_000))
    )
    # What a process did before it was asked for the first time is no work of these two seconds.
    assert between.rates("taximeter_operations_total", "operation") == {"charge": 15.0}
    assert between.rate("taximeter_operations_total") == 15.0
    assert screen.refusals(between) == [("sidecar insufficient_credits", "0.5")]
    assert screen.operations(between)[0][:2] == ("charge", "15.0")


def test_a_process_that_began_anew_did_not_undo_its_work() -> None:
    between = Between(at(0, a=gate(1_000)), at(1, a=gate(4)))
    assert between.rates("taximeter_operations_total", "operation") == {}


def test_quantiles_are_of_the_time_between() -> None:
    between = Between(at(0, a=gate(1_000, 1_000)), at(1, a=gate(1_100, 1_060)))
    found = between.quantiles("taximeter_operation_seconds", "operation", (0.5, 0.6, 0.61, 1.0))
    assert found == {"charge": [0.001, 0.001, 0.01, 0.01]}
    nothing = Between(at(0, a=gate(5, 5)), at(1, a=gate(5, 5)))
    assert nothing.quantiles("taximeter_operation_seconds", "operation", (0.5,)) == {}


def test_what_is_of_the_whole_system_is_not_added_up() -> None:
    look = at(0, a=shard(10) + gate(), b=shard(12, is_open=0) + gate(), c=OSError("refused"))
    assert screen.shards(look) == [("0", "closed", "-", "12", "1.5", "-", "4")]
    assert "backlog [b]12[/] events" in screen.summary(look, Between(look, look))
    assert look.away == {"c": "refused"}
    assert Look.read({"x": "no metrics <html>"}).told.get("x", []) == []


def test_every_figure_is_a_metric_of_ours() -> None:
    told = set(re.findall(r"^- `(taximeter_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.M))
    asked = set(re.findall(r'"(taximeter_\w+)"', Path(screen.__file__).read_text()))
    assert len(asked) > 8
    assert asked <= told


class Process:
    """Something that tells its metrics, whatever `says` is."""

    def __init__(self) -> None:
        self.says = ""

    async def answer(self, _: web.Request) -> web.Response:
        return web.Response(text=self.says, status=200 if self.says else 500)


@pytest.fixture
async def process() -> AsyncIterator[tuple[Process, str]]:
    made = Process()
    app = web.Application()
    app.add_routes([web.get("/metrics", made.answer)])
    async with TestServer(app) as server:
        yield made, str(server.make_url("/metrics"))


async def test_the_screen_shows_what_changed(
    process: tuple[Process, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAXIMETER_API_TOKEN", "nobody")
    told, address = process
    told.says = gate(100, 0, 5) + shard(3)
    top = screen.Top([address, "http://127.0.0.1:1/metrics"], 3_600.0, "http://127.0.0.1:1")
    async with top.run_test(size=(140, 40)) as pilot:

        async def has_looked() -> bool:
            await pilot.pause()
            return top.query_one("#shards", DataTable).row_count == 1

        await eventually(has_looked)
        told.says = gate(200, 100, 6) + shard(7)
        await top.look()
        table = top.query_one("#operations", DataTable)
        assert [str(one) for one in table.get_row_at(0)][::2] == ["charge", "1.0 ms"]
        assert str(top.query_one("#shards", DataTable).get_row_at(0)[3]) == "7"
        said = str(top.query_one("#said", Static).content)
        assert "http://127.0.0.1:1/metrics" in said
        assert "organizations:" in said
        told.says = ""
        await top.look()
        assert "500" in str(top.query_one("#said", Static).content)
        await pilot.press("q")


def test_addresses_that_are_none_are_refused() -> None:
    for address in ("localhost:8086", "http://a:b/metrics", "http://a:99999/metrics"):
        result = CliRunner().invoke(group, ["top", "--metrics", address])
        assert result.exit_code == 2, result.output
        assert "--metrics" in result.output
