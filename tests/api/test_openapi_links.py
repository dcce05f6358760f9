"""Every link of the document leads somewhere: its route takes those parameters, and the answer that
it starts from has what it names.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest

from taximeter.api.app import create_app
from taximeter.api.settings.api import ApiSettings
from taximeter.api.web.links import LINKS
from taximeter.api.web.openapi import example_of


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(ApiSettings(dev_mode=True)).openapi()


def routes(document: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """operationId -> (`METHOD path`, operation)."""
    return {
        operation["operationId"]: (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def named(expression: str, route: str) -> object:
    """What a runtime expression names in the route's own example."""
    source, _, pointer = expression.partition("#")
    method, _, path = route.partition(" ")
    if not pointer:
        parameter = source.removeprefix("$request.path.")
        assert f"{{{parameter}}}" in path, expression
        return parameter
    example = example_of(method, path)[source.removeprefix("$").removesuffix(".body")]
    return reduce(lambda found, key: found[key], pointer.strip("/").split("/"), example)


@pytest.mark.parametrize("route", LINKS)
def test_links_lead_somewhere(document: dict[str, Any], route: str) -> None:
    by_id = routes(document)
    [operation] = [one for name, one in by_id.values() if name == route]
    links = operation["responses"]["200"]["links"]
    assert set(links) == set(LINKS[route])
    for name, link in links.items():
        target, _ = by_id[link["operationId"]]
        assert target == LINKS[route][name][0]
        wanted = {part.strip("{}") for part in target.split("/") if part.startswith("{")}
        assert set(link["parameters"]) == wanted, name
        for expression in (*link["parameters"].values(), *link.get("requestBody", {}).values()):
            assert named(expression, route) is not None, expression
