"""Each alarm fires for what it is about, not for its like, and has its section in the runbooks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from operate.expositions import PROCESSES
from operate.prometheus import ROOT, RULES, alarms, promtool
from prometheus_client import generate_latest

Series = dict[str, str]
PAGE = (ROOT / "docs" / "runbooks.md").read_text("utf-8")
STEP = "1m"
LAST = "x60"
"""Every series goes on to the end."""


def flat(value: int | float) -> str:
    return f"{value}+0{LAST}"


def growing(by: int, start: int = 0) -> str:
    return f"{start}+{by}{LAST}"


ONCE = "0+0x20 1+0x40"
"""Nothing for twenty minutes, then one."""
NOW = growing(60)
"""A time of now, by the clock of the test."""


class Case(NamedTuple):
    """Series that make an alarm fire after so many minutes, and those that do not."""

    minutes: int
    fires: Series
    quiet: Series


def gauge(name: str, fires: str, quiet: str, minutes: int = 5) -> Case:
    return Case(minutes, {name: fires}, {name: quiet})


def counter(name: str, minutes: int = 22) -> Case:
    return gauge(name, ONCE, flat(7), minutes)


def buckets(histogram: str, labels: str) -> tuple[Series, Series]:
    """Half of all take longer than a second, and none."""
    quick, slow, all_of_them = (
        f'{histogram}_bucket{{{labels},le="{bound}"}}' for bound in ("0.1", "2.5", "+Inf")
    )
    return (
        {quick: growing(5), slow: growing(10), all_of_them: growing(10)},
        {quick: growing(10), slow: growing(10), all_of_them: growing(10)},
    )


RESERVES = buckets("taximeter_operation_seconds", 'operation="reserve"')
LATE = buckets("taximeter_event_loop_lag_seconds", 'job="taximeter-api",instance="a"')
CASES: dict[str, Case] = {
    "TaximeterBooksWrong": Case(
        5,
        {
            'taximeter_drifting_accounts{job="s",instance="a"}': flat(0),
            'taximeter_reconciled_timestamp_seconds{job="s",instance="a"}': NOW,
            'taximeter_drifting_accounts{job="s",instance="b"}': flat(2),
            'taximeter_reconciled_timestamp_seconds{job="s",instance="b"}': NOW,
            'taximeter_check_violations{job="s",instance="a"}': flat(0),
        },
        {
            'taximeter_check_violations{job="s",instance="a"}': flat(0),
            'taximeter_drifting_accounts{job="s",instance="a"}': flat(0),
            'taximeter_reconciled_timestamp_seconds{job="s",instance="a"}': NOW,
        },
    ),
    "TaximeterEventsLost": gauge("taximeter_unacknowledged_lost_events", flat(3), flat(0)),
    "TaximeterSilent": gauge("taximeter_silent", flat(1), flat(0)),
    "TaximeterDeadLetters": counter('taximeter_dead_events_total{shard="0"}'),
    "TaximeterBooksNotCompared": gauge(
        "taximeter_reconciled_timestamp_seconds", flat(1), growing(60, 1), 50
    ),
    "TaximeterBooksNotProved": gauge("taximeter_check_proved_timestamp_seconds", flat(1), NOW, 50),
    "TaximeterCallsMissing": counter('taximeter_missing_calls_total{shard="0"}'),
    "TaximeterUncharged": counter("taximeter_uncharged_credits_total"),
    "TaximeterOverdrafts": counter("taximeter_overdrafts_total"),
    "TaximeterChargesPending": gauge("taximeter_pending_charges", flat(1), flat(0), 15),
    "TaximeterPricesUnusable": gauge("taximeter_prices_usable", flat(0), flat(1), 20),
    "TaximeterSettlerStopped": Case(
        5,
        {'taximeter_settlers{state="alive"}': flat(0)},
        {
            'taximeter_settlers{state="alive",instance="a"}': flat(1),
            'taximeter_settlers{state="stopped",instance="a"}': flat(1),
        },
    ),
    "TaximeterSettlementLags": gauge(
        'taximeter_settlement_lag_seconds{shard="1"}', flat(31), flat(2)
    ),
    "TaximeterBacklogFull": counter('taximeter_refusals_total{surface="llm",reason="backlog"}'),
    "TaximeterRelayLags": Case(
        5,
        {'taximeter_relay_lag_seconds{instance="a"}': growing(60)},
        {
            'taximeter_relay_lag_seconds{instance="a"}': growing(60),
            'taximeter_relay_lag_seconds{instance="b"}': flat(1),
        },
    ),
    "TaximeterRelayRefused": gauge("taximeter_relay_refused_accounts", flat(1), flat(0), 10),
    "TaximeterLoopStuck": Case(
        20,
        {
            'taximeter_loop_idle_seconds{loop="reconcile"}': growing(60),
            'taximeter_loop_period_seconds{loop="reconcile"}': flat(60),
        },
        {
            'taximeter_loop_idle_seconds{loop="daily"}': flat(599),
            'taximeter_loop_period_seconds{loop="daily"}': flat(600),
        },
    ),
    "TaximeterLoopFails": Case(
        10,
        {'taximeter_loop_failing{loop="settle",instance="a"}': flat(1)},
        {
            'taximeter_loop_failing{loop="settle",instance="a"}': flat(1),
            'taximeter_loop_failing{loop="settle",instance="b"}': flat(0),
        },
    ),
    "TaximeterExportLate": gauge(
        "taximeter_exported_until_timestamp_seconds", flat(-108_000), flat(-100_000), 10
    ),
    "TaximeterShardFenced": Case(
        5,
        {'taximeter_shard_open{shard="0"}': flat(1), 'taximeter_shard_open{shard="1"}': flat(0)},
        {'taximeter_shard_open{shard="0"}': flat(1), 'taximeter_shard_open{shard="1"}': flat(1)},
    ),
    "TaximeterShardRebuilt": counter('taximeter_shard_epoch{shard="1"}'),
    "TaximeterStoreAway": gauge('taximeter_store_up{store="redis"}', flat(0), flat(1)),
    "TaximeterStoreFull": counter('taximeter_refusals_total{reason="out_of_memory"}'),
    "TaximeterQueueFull": Case(
        22,
        {'taximeter_busy_refusals_total{limit="account"}': ONCE},
        {'taximeter_busy_refusals_total{limit="queue"}': flat(7)},
    ),
    "TaximeterUnconfirmed": counter("taximeter_unconfirmed_answers_total"),
    "TaximeterServerErrors": Case(
        15,
        {
            'taximeter_http_requests_total{job="a",status="200",route="/x"}': growing(9),
            'taximeter_http_requests_total{job="a",status="503",route="/x"}': growing(1),
        },
        {
            'taximeter_http_requests_total{job="a",status="200",route="/x"}': growing(9),
            'taximeter_http_requests_total{job="a",status="503",route="/readyz"}': growing(9),
            'taximeter_http_requests_total{job="a",status="404",route="/x"}': growing(9),
        },
    ),
    "TaximeterReservesSlow": Case(20, *RESERVES),
    "TaximeterUpstreamDown": gauge('taximeter_upstream_up{upstream="a"}', flat(0), flat(1), 10),
    "TaximeterPoolFull": Case(
        10,
        {
            'taximeter_postgres_connections{job="a",instance="a",pool="api",state="used"}': flat(8),
            'taximeter_postgres_connections{job="a",instance="a",pool="api",state="max"}': flat(8),
        },
        {
            'taximeter_postgres_connections{job="a",instance="a",pool="api",state="used"}': flat(7),
            'taximeter_postgres_connections{job="a",instance="a",pool="api",state="max"}': flat(8),
        },
    ),
    "TaximeterLoopLags": Case(20, *LATE),
    "TaximeterDescriptorsRunOut": Case(
        10,
        {
            'process_open_fds{job="taximeter-api"}': flat(950),
            'process_max_fds{job="taximeter-api"}': flat(1000),
        },
        {'process_open_fds{job="other"}': flat(950), 'process_max_fds{job="other"}': flat(1000)},
    ),
    "TaximeterNoticesLate": gauge("taximeter_notice_late_seconds", flat(400), flat(200), 12),
    "TaximeterNoticesFail": Case(
        50,
        {
            'taximeter_notice_deliveries_total{kind="webhook",outcome="failed"}': growing(2),
            'taximeter_notice_deliveries_total{kind="webhook",outcome="delivered"}': growing(1),
        },
        {
            'taximeter_notice_deliveries_total{kind="webhook",outcome="failed"}': growing(2),
            'taximeter_notice_deliveries_total{kind="webhook",outcome="delivered"}': growing(2),
        },
    ),
    "TaximeterReceiverDisabled": gauge(
        'taximeter_receivers{of="installation",state="disabled"}',
        flat(1),
        flat(0),
    ),
    "TaximeterTargetDown": gauge('up{job="taximeter-api"}', flat(0), flat(1)),
}


def test_each_alarm_has_its_section_and_each_section_its_alarm() -> None:
    assert re.findall(r"^## (\w+)", PAGE, re.MULTILINE) == [*alarms()]
    for name, rule in alarms().items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize("process", PROCESSES)
def test_names_and_units_are_those_of_prometheus(process: str) -> None:
    registry = PROCESSES[process]().registry
    promtool("check", "metrics", given=generate_latest(registry).decode())


def test_each_alarm_has_its_case() -> None:
    assert [*CASES] == [*alarms()]


def test_the_rules_and_the_configuration_are_what_prometheus_takes() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES)
    assert "SUCCESS" in promtool("check", "config", RULES.with_name("prometheus.yml"))


def unit(names: Iterable[str], *, fires: bool, minutes: int | None = None) -> dict[str, Any]:
    """The series of some alarms, and whether each of them fires."""
    series: Series = {}
    for name in names:
        own = CASES[name].fires if fires else CASES[name].quiet
        assert not series.keys() & own.keys(), "they would be mixed up"
        series |= own
    return {
        "interval": STEP,
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertstate="firing",alertname="{name}"}}) or vector(0)',
                "eval_time": f"{CASES[name].minutes if minutes is None else minutes}m",
                "exp_samples": [{"labels": "{}", "value": int(fires and minutes is None)}],
            }
            for name in names
        ],
    }


def tried(folder: Path, *units: dict[str, Any]) -> None:
    document = {"rule_files": [str(RULES)], "evaluation_interval": STEP, "tests": [*units]}
    path = folder / "tests.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    assert "SUCCESS" in promtool("test", "rules", path)


def test_every_alarm_fires_for_what_it_is_about_and_not_for_its_like(tmp_path: Path) -> None:
    alone = ["TaximeterBooksNotCompared"]  # Whose clock stands still.
    together = [name for name in CASES if name not in alone]
    units = [unit(names, fires=fires) for names in (together, alone) for fires in (True, False)]
    tried(tmp_path, *units)


def test_what_is_so_since_a_moment_ago_is_no_alarm_yet(tmp_path: Path) -> None:
    """So the test above can tell."""
    waiting = [name for name, rule in alarms().items() if "for" in rule]
    tried(tmp_path, unit([one for one in waiting if one in CASES], fires=True, minutes=0))
