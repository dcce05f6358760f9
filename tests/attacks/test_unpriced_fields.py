"""Bodies that ask for more than is priced: under another spelling, for what runs at the provider,
or for a price of the caller's choice.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.provider import USAGE, Asked, Provider, chat_answer
from support.world import CHAT, World

from taximeter.api.openai.fields import CHAT as CHAT_FIELDS
from taximeter.api.openai.json_members import NotAnObject, parse_object
from taximeter.api.openai.parse import SURFACES, parse_request
from taximeter.api.web.errors import ApiError

HEAD = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]'
REFUSED: dict[str, tuple[bytes, str]] = {
    "another case": (b',"Model":"o3-pro"', "differ only by case"),
    "another case alone": (b',"N":128', "N: "),
    "a letter that folds": (b',"\xc5\xbftream":true,"stream":false', "differ only by case"),
    "searches": (b',"web_search_options":{}', "web_search_options: "),
    "plugins": (b',"plugins":[{"id":"web"}]', "plugins: "),
    "a mock": (b',"mock_response":"free"', "mock_response: "),
    "a body in the body": (b',"extra_body":{"n":9}', "extra_body: "),
    "a field of tomorrow": (b',"hologram":true', "hologram: "),
    "a hosted tool": (b',"tools":[{"type":"web_search_20250305"}]', "tools: "),
    "a tool without a type": (b',"tools":[{"googleSearch":{}}]', "tools: "),
    "two types": (b',"tools":[{"type":"web_search","type":"function"}]', "stands twice"),
    "two cases of a type": (b',"tools":[{"type":"function","Type":"web_search"}]', "tools: "),
}


async def answers(asked: Asked) -> None:
    await asked.answer(chat_answer(usage=USAGE))


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider(answers).serving() as opened:
        yield opened


@pytest.fixture
def api_options(
    provider: Provider, tmp_path: Path, request: pytest.FixtureRequest
) -> dict[str, Any]:
    own: dict[str, Any] = getattr(request, "param", {})
    document = {
        "upstreams": [{"name": "one", "base_url": provider.url}],
        "routes": [
            {
                "models": ["gpt-4o"],
                "targets": [{"upstream": "one"}],
                "power_level": "precision",
            },
            {"models": ["*"], "targets": [{"upstream": "one"}]},
        ],
    }
    path = tmp_path / "upstreams.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return {
        "upstream_base_url": None,
        "upstream_name": None,
        "upstreams_file": path,
        "markup_by_power_level": {"precision": Decimal(2), "eco": Decimal("0.1")},
        **own,
    }


async def test_what_is_not_priced_is_refused_by_name(world: World, provider: Provider) -> None:
    await world.funded()
    headers = {"Content-Type": "application/json", **world.auth("ann")}
    for name, (more, word) in REFUSED.items():
        response = await world.client.post(CHAT, content=HEAD + more + b"}", headers=headers)
        assert response.status_code == 422, name
        assert word in response.json()["error"]["message"], name
    assert not provider.asked
    assert (await world.balance()).available == 50_000


@pytest.mark.parametrize("api_options", [{"llm_extra_fields": ("hologram",)}], indirect=True)
async def test_the_operator_lets_a_field_through(world: World, provider: Provider) -> None:
    await world.funded()
    assert (await world.chat(hologram=True)).status_code == 200
    assert provider.asked[0].body["hologram"] is True


async def test_a_route_has_its_power_level_and_the_caller_none(world: World) -> None:
    await world.funded()
    for model, level in (
        ("gpt-4o", {}),
        ("gpt-4o", {"power_level": "precision"}),
        ("gpt-4o-mini", {}),
        ("gpt-4o-mini", {"power_level": "just a word"}),
    ):
        assert (await world.chat(model=model, **level)).status_code == 200
    for model, level in (("gpt-4o", "eco"), ("gpt-4o-mini", "eco"), ("gpt-4o-mini", "precision")):
        refused = await world.chat(model=model, power_level=level)
        assert refused.status_code == 422
        assert "route and plan decide it" in refused.json()["error"]["message"]
    one, two, three, four = await world.charges()
    assert one["credits_used"] == two["credits_used"]
    assert three["credits_used"] == four["credits_used"]
    assert json.loads(one["metadata"])["power_level"] == "precision"
    assert json.loads(four["metadata"])["power_level"] == "just a word"


def test_every_surface_knows_what_openais_clients_send() -> None:
    """Each field that limits output or is checked is among the known ones."""
    for surface in SURFACES:
        assert {"model", *surface.limits} <= surface.fields | (
            set(surface.limits) if surface.fixed_output == 0 else set()
        )
    known = {"temperature", "tools", "seed", "logprobs", "response_format", "reasoning_effort"}
    assert known <= CHAT_FIELDS
    with pytest.raises(ApiError, match="top_secret: is not served"):
        parse_request(HEAD + b',"top_secret":1}', SURFACES[0])


def test_what_differs_by_more_than_case_is_two_names() -> None:
    assert parse_object('{"a":1,"b":{"A":1,"a":2}}').values == {"a": 1, "b": {"A": 1, "a": 2}}
    with pytest.raises(NotAnObject, match="'a' and 'A' differ only by case"):
        parse_object('{"a":1,"A":1}')
