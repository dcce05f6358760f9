"""The boards of deploy/grafana are those of boards.yml, and ask for nothing that nobody tells."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from operate.boards import as_grafana_has_it, boards, queries

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "taximeter.rules.yml"
NAME = re.compile(r"\btaximeter_\w+")
SERIES_OF_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


@pytest.mark.parametrize("board", boards(), ids=lambda board: board["uid"])
def test_a_board_is_what_is_written_down(board: dict[str, Any]) -> None:
    """`WRITE_DOCS=1 make test ARGS=tests/operate` writes it."""
    path = ROOT / "deploy" / "grafana" / f"{board['uid']}.json"
    if os.environ.get("WRITE_DOCS"):
        path.write_text(as_grafana_has_it(board), "utf-8")
    assert path.read_text("utf-8") == as_grafana_has_it(board)


def asked() -> dict[str, str]:
    """Every query of boards and rules, by where it stands."""
    found = {f"{one['uid']}: {title}": query for one in boards() for title, query in queries(one)}
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        found |= {rule.get("alert") or rule["record"]: rule["expr"] for rule in group["rules"]}
    return found


def test_what_is_asked_for_is_told_by_somebody() -> None:
    told = set(re.findall(r"^- `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    assert len(told) > 50
    for where, query in asked().items():
        for name in NAME.findall(re.sub(r"\w+:taximeter_\w+:\w+", "", query)):
            assert {name, SERIES_OF_HISTOGRAM.sub("", name)} & told, f"{where} asks for {name}"


def test_what_is_recorded_is_what_is_asked_for() -> None:
    rules = [
        rule
        for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]
        for rule in group["rules"]
    ]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    used = {
        name for query in asked().values() for name in re.findall(r"\w+:taximeter_\w+:\w+", query)
    }
    assert used == recorded
