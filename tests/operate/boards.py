"""Makes the Grafana boards of deploy/grafana of what boards.yml says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 24, 7

Board = dict[str, Any]


def boards() -> list[Board]:
    """As they are written down."""
    made: list[Board] = yaml.safe_load(Path(__file__).with_name("boards.yml").read_text("utf-8"))
    return made


def queries(board: Board) -> Iterator[tuple[str, str]]:
    """(panel, query) of everything that a board asks."""
    for row in board["rows"].values():
        for panel in row:
            for query in panel["queries"].values():
                yield panel["title"], query


def as_grafana_has_it(board: Board) -> str:
    """The JSON that Grafana imports."""
    document = {
        "uid": board["uid"],
        "title": board["title"],
        "tags": ["taximeter"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "templating": {"list": [*_variables(board)]},
        "panels": [*_panels(board)],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _variables(board: Board) -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    if "organizations" in board:
        yield {
            "name": "org",
            "label": "Organisation",
            "type": "query",
            "datasource": SOURCE,
            "query": board["organizations"],
            "refresh": 2,
            "sort": 1,
        }


def _panels(board: Board) -> Iterator[dict[str, Any]]:
    """Each row under its title, six numbers or three graphs a line."""
    number = at_y = 0
    for title, row in board["rows"].items():
        number += 1
        grid = {"x": 0, "y": at_y, "w": WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": title, "gridPos": grid, "panels": []}
        at_y += 1
        a_line = min(len(row), 6 if all(one.get("kind") == "stat" for one in row) else 3)
        for place, panel in enumerate(row):
            number += 1
            at = {"x": place % a_line * (WIDTH // a_line), "y": at_y + place // a_line * HEIGHT}
            grid = {**at, "w": WIDTH // a_line, "h": HEIGHT}
            yield _panel(panel, number, grid)
        at_y += -(-len(row) // a_line) * HEIGHT


def _panel(panel: dict[str, Any], number: int, grid: dict[str, int]) -> dict[str, Any]:
    kind = panel.get("kind", "timeseries")
    return {
        "id": number,
        "type": kind,
        "title": panel["title"],
        "description": panel.get("about", ""),
        "gridPos": grid,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel["unit"]}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": kind == "stat",
                "range": kind != "stat",
            }
            for place, (legend, query) in enumerate(panel["queries"].items())
        ],
    }
