"""docs/metrics.md has every family of every process, as the code makes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import wrap

from operate.expositions import PROCESSES
from prometheus_client.core import Metric

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ABOUT = (
    "What `/metrics` tells, made from the code: `WRITE_DOCS=1 make test ARGS=tests/docs`. The API"
    " answers on `TAXIMETER_METRICS_PORT`, the settler on `TAXIMETER_SETTLER_PORT`, the sidecar on"
    " its own port. What is of the whole system every process tells that may read it: take `max` or"
    " `min`. A counter is since its process began. `deploy/prometheus` has alarms"
    " ([runbooks](runbooks.md)), `deploy/grafana` boards;"
    " [0103](decisions/0103-metrics-are-plain-numbers-that-a-scrape-reads.md) says why it is so."
    " prometheus-client adds `process_*` and `python_*`."
)
OF_THE_LIBRARY = ("process_", "python_")


def families() -> dict[str, dict[str, Metric]]:
    """Of each process, by their names as Prometheus has them."""
    return {
        process: {
            shown(family): family
            for family in made().registry.collect()
            if family.samples and not family.name.startswith(OF_THE_LIBRARY)
        }
        for process, made in PROCESSES.items()
    }


def shown(family: Metric) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def labels_of(family: Metric) -> list[str]:
    found: dict[str, None] = {}
    for sample in family.samples:
        found |= dict.fromkeys(label for label in sample.labels if label != "le")
    return list(found)


def lines() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield from wrap(ABOUT, 100, break_long_words=False, break_on_hyphens=False)
    by_process = families()
    told: dict[str, list[str]] = {}
    for process, found in by_process.items():
        for name in found:
            told.setdefault(name, []).append(process)
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, processes in told.items():
        groups.setdefault(tuple(processes), []).append(name)
    for processes in sorted(groups, key=lambda one: (-len(one), one)):
        yield ""
        yield f"## {', '.join(processes)}"
        yield ""
        for name in sorted(groups[processes]):
            yield from item(name, by_process[processes[0]][name])


def item(name: str, family: Metric) -> Iterable[str]:
    kind = ", ".join([family.type, *(f"`{label}`" for label in labels_of(family))])
    return wrap(
        f"`{name}` ({kind}): {family.documentation}",
        100,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def test_the_page_is_that_of_the_code() -> None:
    expected = "\n".join(lines()) + "\n"
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(expected, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == expected


def test_two_processes_tell_the_same_by_one_name() -> None:
    seen: dict[str, tuple[str, str, list[str]]] = {}
    for found in families().values():
        for name, family in found.items():
            about = (family.type, family.documentation, labels_of(family))
            assert seen.setdefault(name, about) == about, name
