"""`taximeter prices diff`: every cause of a difference is told, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taximeter.api.prices_diff import FINE, Difference, compare
from taximeter.meter.pricing import Pricer

PRICER = Pricer(credits_per_dollar=FINE)
GPT_4O = {
    "litellm_provider": "openai",
    "input_cost_per_token": 2.5e-06,
    "output_cost_per_token": 1e-05,
    "cache_read_input_token_cost": 1.25e-06,
}


def _of(**fields: Any) -> Difference:
    return compare(PRICER, json.dumps({"gpt-4o": {**GPT_4O, **fields}}).encode())


def test_the_same_prices_agree() -> None:
    found = _of()
    assert (found.models, found.only_map, found.causes) == (1, 0, {})
    assert found.agreement == 1.0
    assert found.agreed > 3
    assert found.guessed > 3, "what the map has no price for is nothing to agree on"


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"input_cost_per_token": 2.4e-06}, "input: another price"),
        ({"output_cost_per_token": 1.1e-05}, "output: another price"),
        ({"cache_read_input_token_cost": 1e-06}, "cache_read: another price"),
        (
            {"input_cost_per_audio_token": 1e-04},
            "input_audio: only the map has a price of its own",
        ),
        (
            {"input_cost_per_token_above_200k_tokens": 5e-06},
            "input: a tier that only the map has",
        ),
        (
            {"input_cost_per_token_flex": 1e-06, "output_cost_per_token_flex": 5e-06},
            "service tier flex: only the map has it",
        ),
    ],
)
def test_each_cause_is_named(fields: dict[str, float], cause: str) -> None:
    found = _of(**fields)
    assert ("openai", cause) in found.causes
    assert found.examples["openai", cause] == "gpt-4o"
    assert found.agreement < 1.0


def test_a_model_without_a_price_here_is_counted() -> None:
    unknown = {**GPT_4O, "litellm_provider": "somebody"}
    found = compare(PRICER, json.dumps({"somebody/gpt-4o": unknown}).encode())
    assert (found.models, found.only_map, found.compared) == (1, 1, 0)
