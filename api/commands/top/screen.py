"""Draws the screen of `taximeter top`, and asks for its figures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import click
import httpx
from rich.markup import escape
from rich.text import Text
from textual.app import App, ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import DataTable, Footer, Header, Static

from taximeter.api.commands.admin_api.caller import token
from taximeter.api.commands.top.figures import Between, Look

TIMEOUT_S: Final = 5.0
ROWS_MAX: Final = 12
SHARES: Final = (0.5, 0.99)
OVERVIEW: Final = "/api/v1/org-billing/billing/system"
_STATES: Final = {1.0: "open", 0.0: "closed"}


class Top(App[None]):
    """Asks every process anew each `every_s`, and shows what changed since the look before."""

    TITLE = "Taximeter"
    BINDINGS = [("q", "quit", "Quit"), ("space", "pause", "Pause")]  # noqa: RUF012
    CSS = """
    #said { height: auto; padding: 0 1; }
    Horizontal { height: 1fr; }
    VerticalScroll { width: 1fr; height: 1fr; border: round $primary; }
    DataTable { height: auto; }
    """

    def __init__(self, addresses: Sequence[str], every_s: float, api_url: str) -> None:
        super().__init__()
        self._addresses, self._every_s, self._api_url = tuple(addresses), every_s, api_url
        self._before: Look | None = None
        self._is_paused = False
        self._why_no_organizations = ""

    def compose(self) -> ComposeResult:
        yield Header(show_clock=True)
        yield Static(id="said")
        with Horizontal():
            yield self._table("operations", "Operations", ("operation", "/s", "p50", "p99"))
            yield self._table("refusals", "Refusals", ("surface and reason", "/s"))
        with Horizontal():
            yield self._table(
                "shards", "Shards",
                ("shard", "state", "epoch", "unsettled", "lag", "holds", "waiting"),
            )  # fmt: skip
            yield self._table(
                "organizations", "Organizations, 30 days", ("organization", "credits", "requests")
            )
        yield Footer()

    def on_mount(self) -> None:
        self.set_interval(self._every_s, self.look)
        self.call_later(self.look)

    def action_pause(self) -> None:
        self._is_paused = not self._is_paused
        self.sub_title = "paused" if self._is_paused else ""

    async def look(self) -> None:
        """Ask, and show. Those that do not answer are named; the others' figures are shown."""
        if self._is_paused:
            return
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            asked = [self._scrape(client, address) for address in self._addresses]
            texts, organizations = await asyncio.gather(
                asyncio.gather(*asked), self._organizations(client)
            )
        look = Look.read(dict(zip(self._addresses, texts, strict=True)))
        between = Between(self._before or look, look)
        self._before = look
        self.query_one("#said", Static).update(self._summary(between))
        self._fill("operations", operations(between))
        self._fill("refusals", refusals(between))
        self._fill("shards", shards(look))
        self._fill("organizations", organizations)

    async def _scrape(self, client: httpx.AsyncClient, address: str) -> str | Exception:
        try:
            answer = await client.get(address)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            return error
        return answer.text

    async def _organizations(self, client: httpx.AsyncClient) -> list[tuple[str, ...]]:
        try:
            headers = {"Authorization": f"Bearer {token().text}"}
            answer = await client.get(f"{self._api_url}{OVERVIEW}", headers=headers)
            answer.raise_for_status()
            rows = answer.json()["top_organizations"]
        except click.ClickException as error:
            self._why_no_organizations = error.message
            return []
        except (httpx.HTTPError, ValueError, KeyError) as error:
            self._why_no_organizations = str(error) or type(error).__name__
            return []
        self._why_no_organizations = ""
        return [
            (row["org_id"], f"{row['credits_used_30d']:,.3f}", f"{row['requests_30d']:,}")
            for row in rows[:ROWS_MAX]
        ]

    def _summary(self, between: Between) -> Text:
        lines = [summary(between.after, between)]
        lines += [f"[red]{escape(address)}: {escape(why)}[/]"
                  for address, why in between.after.away.items()]  # fmt: skip
        if self._why_no_organizations:
            lines.append(f"[dim]organizations: {escape(self._why_no_organizations)}[/]")
        return Text.from_markup("\n".join(lines))

    def _table(self, name: str, title: str, columns: Sequence[str]) -> VerticalScroll:
        table: DataTable[Text] = DataTable(id=name, cursor_type="none", zebra_stripes=True)
        table.add_columns(*columns)
        scroll = VerticalScroll(table)
        scroll.border_title = title
        return scroll

    def _fill(self, name: str, rows: Sequence[Sequence[str]]) -> None:
        table: DataTable[Any] = self.query_one(f"#{name}", DataTable)
        table.clear()
        for first, *rest in rows:
            table.add_row(Text(first), *(Text(one, justify="right") for one in rest))


def summary(look: Look, between: Between) -> str:
    """The line above the tables."""
    lag = max(look.whole("taximeter_settlement_lag_seconds", "shard").values(), default=0.0)
    backlog = sum(look.whole("taximeter_unsettled_events", "shard").values())
    dead = max(look.whole("taximeter_dead_letters").values(), default=0.0)
    lost = max(look.whole("taximeter_unacknowledged_lost_events").values(), default=0.0)
    settlers = look.whole("taximeter_settlers", "state")
    alive = ", ".join(f"{value:.0f} {state}" for state, value in settlers.items() if value)
    parts = [
        f"[b]{between.rate('taximeter_http_requests_total'):,.0f}[/] requests/s",
        f"[b]{between.rate('taximeter_charged_credits_total'):,.3f}[/] credits charged/s",
        f"[b]{between.rate('taximeter_held_credits_total'):,.3f}[/] held/s",
        f"backlog [b]{backlog:,.0f}[/] events, lag [b]{lag:.1f}[/] s",
        f"settlers {alive or 'none'}",
    ]
    if dead or lost:
        parts.append(f"[red]dead letters {dead:.0f}, lost events {lost:.0f}[/]")
    return " · ".join(parts)


def operations(between: Between) -> list[tuple[str, ...]]:
    """By what was asked of Redis: how often, and how long it took."""
    times = between.quantiles("taximeter_operation_seconds", "operation", SHARES)
    rates = between.rates("taximeter_operations_total", "operation")
    most = sorted(rates.items(), key=lambda one: -one[1])[:ROWS_MAX]
    return [
        (name, f"{rate:,.1f}", *(_milliseconds(one) for one in times.get(name, [None, None])))
        for name, rate in most
    ]


def refusals(between: Between) -> list[tuple[str, ...]]:
    """By surface and reason, the most frequent first."""
    found: dict[str, float] = {}
    for surface in between.rates("taximeter_refusals_total", "surface"):
        narrowed = Between(_only(between.before, surface), _only(between.after, surface))
        for reason, rate in narrowed.rates("taximeter_refusals_total", "reason").items():
            found[f"{surface} {reason}"] = rate
    most = sorted(found.items(), key=lambda one: -one[1])[:ROWS_MAX]
    return [(name, f"{rate:,.1f}") for name, rate in most]


def shards(look: Look) -> list[tuple[str, ...]]:
    """A line each, by number."""
    state = look.whole("taximeter_shard_open", "shard", min)
    columns = [
        look.whole(f"taximeter_{name}", "shard")
        for name in ("shard_epoch", "unsettled_events", "settlement_lag_seconds", "open_holds")
    ]
    waiting = look.total("taximeter_waiting_operations", "shard")
    return [
        (
            shard,
            _STATES.get(state[shard], "?"),
            *(f"{one[shard]:,.{1 if number == 2 else 0}f}" if shard in one else "-"
              for number, one in enumerate(columns)),
            f"{waiting.get(shard, 0):,.0f}",
        )
        for shard in sorted(state, key=lambda text: (len(text), text))
    ]  # fmt: skip


def _only(look: Look, surface: str) -> Look:
    told = {
        address: [one for one in samples if one[1].get("surface") == surface]
        for address, samples in look.told.items()
    }
    return Look(look.at_s, told)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.1f} ms"
