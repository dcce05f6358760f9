"""`taximeter prices diff`: every cause of a difference is told, nothing real is set aside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from taximeter.api.commands.prices import command
from taximeter.api.prices.diff import Difference, compare
from taximeter.api.prices.set_aside import OF_BOTH, OF_THE_MAP
from taximeter.meter.pricing import Pricer

PRICER = Pricer()
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
SAMPLE = Path(__file__).parent / "litellm_sample.json"
GPT_4O = {
    "litellm_provider": "openai",
    "input_cost_per_token": 2.5e-06,
    "output_cost_per_token": 1e-05,
    "cache_read_input_token_cost": 1.25e-06,
}


def _of(models: Mapping[str, Mapping[str, Any]], pricer: Pricer = PRICER) -> Difference:
    return compare(pricer, json.dumps(models).encode(), NOON)


def _gpt_4o(**fields: Any) -> Difference:
    return _of({"gpt-4o": {**GPT_4O, **fields}})


def test_the_same_prices_agree() -> None:
    found = _gpt_4o()
    assert (found.models, found.only_map, found.causes) == (1, 0, {})
    assert found.agreement == 1.0
    assert found.agreed >= 3
    assert set(found.set_aside) == {"no_price", "no_tier"}, "what the map has no price for"


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"input_cost_per_token": 2.4e-06}, "input: another price"),
        ({"output_cost_per_token": 1.1e-05}, "output: another price"),
        ({"cache_read_input_token_cost": 1e-06}, "cache_read: another price"),
        ({"input_cost_per_audio_token": 1e-04}, "input_audio: only the map has a price of its own"),
        ({"input_cost_per_token_balanced": 1e-06}, "service tier balanced: only the map has it"),
        ({"input_cost_per_token_batches": 1e-06}, "output of service tier batch: another price"),
        (
            {
                "input_cost_per_token_above_90k_tokens": 5e-06,
                "output_cost_per_token_above_90k_tokens": 1e-05,
            },
            "input: a tier that only the map has",
        ),
        (
            {"search_context_cost_per_query": {"search_context_size_low": 0.03}},
            "search: another price",
        ),
    ],
)
def test_each_cause_is_named(fields: dict[str, Any], cause: str) -> None:
    both = {name.replace("input", "output"): value for name, value in fields.items()}
    found = _gpt_4o(**{**(both if "balanced" in cause or "batch" in cause else {}), **fields})
    assert ("openai", cause) in found.causes
    assert found.examples["openai", cause] == "gpt-4o"
    assert found.agreement < 1.0


def test_a_model_without_a_price_here_is_counted() -> None:
    found = _of({"somebody/gpt-4o": {**GPT_4O, "litellm_provider": "somebody"}})
    assert (found.models, found.only_map, found.compared) == (1, 1, 0)


CLAUDE = {
    "litellm_provider": "bedrock_converse",
    "input_cost_per_token": 1e-06,
    "output_cost_per_token": 5e-06,
}
SONAR = {
    "litellm_provider": "perplexity",
    "input_cost_per_token": 1e-06,
    "output_cost_per_token": 1e-06,
    "search_context_cost_per_query": {"high": 0.012},
}


def _times(fields: Mapping[str, Any], factor: float) -> dict[str, Any]:
    return {
        name: value * factor if isinstance(value, float) else value
        for name, value in fields.items()
    }


_HAIKU = "anthropic.claude-haiku-4-5-20251001-v1:0"
# Rule -> a map in which it holds, and the same map where it must not: the price that the list has,
# or the other one, is another one.
_CASES: dict[str, tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]] = {
    "no_tier": ({"gpt-4o": GPT_4O}, {}),
    "no_price": ({"gpt-4o": GPT_4O}, {}),
    "no_long_price": (
        {
            "gpt-5.4": {
                **_times(GPT_4O, 1.0),
                "output_cost_per_token": 1.5e-05,
                "cache_read_input_token_cost": 2.5e-07,
                "input_cost_per_token_above_272k_tokens": 5e-06,
                "output_cost_per_token_above_272k_tokens": 2.25e-05,
                "input_cost_per_token_flex": 1.25e-06,
                "output_cost_per_token_flex": 7.5e-06,
            }
        },
        {},
    ),
    "too_long": (
        {
            "gpt-5.4": {
                **GPT_4O,
                "output_cost_per_token": 1.5e-05,
                "max_input_tokens": 100_000,
                "cache_read_input_token_cost": 2.5e-07,
            }
        },
        {},
    ),
    "retired": ({"gpt-4o": {**GPT_4O, "deprecation_date": "2026-11-29"}}, {}),
    "global_price": (
        {_HAIKU: CLAUDE, f"us.{_HAIKU}": _times(CLAUDE, 1.1)},
        {_HAIKU: CLAUDE, f"us.{_HAIKU}": _times(CLAUDE, 1.2)},
    ),
    "has_it_twice": (
        {
            "azure/gpt-4o": {**GPT_4O, "litellm_provider": "azure"},
            "azure_ai/gpt-4o": {**_times(GPT_4O, 1.5), "litellm_provider": "azure_ai"},
        },
        {
            "azure/gpt-4o": {**_times(GPT_4O, 1.3), "litellm_provider": "azure"},
            "azure_ai/gpt-4o": {**_times(GPT_4O, 1.5), "litellm_provider": "azure_ai"},
        },
    ),
    "no_kind_of_its_maker": (
        {
            "gpt-4o": GPT_4O,
            "azure/gpt-4o": {
                **GPT_4O,
                "litellm_provider": "azure",
                "cache_creation_input_token_cost": 1e-06,
            },
        },
        {
            "gpt-4o": {**GPT_4O, "cache_creation_input_token_cost": 1e-06},
            "azure/gpt-4o": {
                **GPT_4O,
                "litellm_provider": "azure",
                "cache_creation_input_token_cost": 1e-06,
            },
        },
    ),
    "regional": (
        {"gpt-4o": GPT_4O, "azure/gpt-4o": {**_times(GPT_4O, 1.1), "litellm_provider": "azure"}},
        {"gpt-4o": GPT_4O, "azure/gpt-4o": {**_times(GPT_4O, 1.2), "litellm_provider": "azure"}},
    ),
    "searches_always": (
        {"perplexity/sonar": SONAR},
        {"perplexity/sonar": {**SONAR, "search_context_cost_per_query": {"high": 0.013}}},
    ),
    "preview_search": (
        {
            "gpt-4.1": {
                **GPT_4O,
                "input_cost_per_token": 2e-06,
                "output_cost_per_token": 8e-06,
                "search_context_cost_per_query": {"high": 0.025},
            }
        },
        {
            "gpt-4.1": {
                **GPT_4O,
                "input_cost_per_token": 2e-06,
                "output_cost_per_token": 8e-06,
                "search_context_cost_per_query": {"high": 0.026},
            }
        },
    ),
    "euros": (
        {
            "ovhcloud/gpt-oss-120b": {
                "litellm_provider": "ovhcloud",
                "input_cost_per_token": 8e-08,
                "output_cost_per_token": 4e-07,
            }
        },
        {
            "ovhcloud/gpt-oss-120b": {
                "litellm_provider": "ovhcloud",
                "input_cost_per_token": 2e-08,
                "output_cost_per_token": 3e-07,
            }
        },
    ),
    "rounded": (
        {
            "cloudflare/@cf/zai-org/glm-4.7-flash": {
                "litellm_provider": "cloudflare",
                "input_cost_per_token": 6.05e-08,
                "output_cost_per_token": 4e-07,
            }
        },
        {
            "cloudflare/@cf/zai-org/glm-4.7-flash": {
                "litellm_provider": "cloudflare",
                "input_cost_per_token": 6.2e-08,
                "output_cost_per_token": 4e-07,
            }
        },
    ),
}


def test_every_rule_has_a_case() -> None:
    assert _CASES.keys() == {*OF_THE_MAP, *OF_BOTH}


@pytest.mark.parametrize("rule", _CASES)
def test_a_rule_sets_aside_what_it_says(rule: str) -> None:
    holds, not_quite = _CASES[rule]
    assert _of(holds).set_aside[rule] > 0
    if rule in OF_BOTH:
        found = _of(not_quite)
        assert found.set_aside[rule] == 0
        assert found.causes, "a difference that is not just so is told"


@pytest.mark.parametrize("rule", ["no_price", "retired"])
def test_rules_of_the_map_do_not_look_at_what_is_charged_here(rule: str, tmp_path: Path) -> None:
    """As many usages are set aside by them, whatever the price is here."""
    holds, _ = _CASES[rule]
    path = tmp_path / "prices.toml"
    path.write_text('[models]\n"gpt-4o" = { input = 77, output = 99 }\n', encoding="utf-8")
    assert _of(holds, Pricer(price_file=path)).set_aside[rule] == _of(holds).set_aside[rule] > 0


@pytest.fixture(scope="module")
def sample() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(SAMPLE.read_bytes())
    return found


def test_what_is_charged_agrees_with_the_sample(sample: dict[str, dict[str, Any]]) -> None:
    """Every eighth model of LiteLLM 1.110.2's map that both price; docs/prices-diff.md has all."""
    found = _of(sample)
    assert found.only_map == 0
    assert found.compared > 500
    assert found.agreement >= 0.995, found.causes


_PLANTED = (
    ("gpt-4.1", "input = 2.2, output = 8, cache_read = 0.5, search = 10"),
    ("gpt-4.1", "input = 2, output = 8.8, cache_read = 0.5, search = 10"),
    ("gpt-4.1", "input = 2, output = 8, cache_read = 0.55, search = 10"),
    ("gpt-4.1", "input = 2, output = 8, cache_read = 0.5, search = 11"),
    ("azure/gpt-4o", "input = 2.6, output = 10, cache_read = 1.25"),
    ("azure_ai/gpt-5.5", "input = 5.1, output = 30, cache_read = 0.5"),
    (_HAIKU, "input = 1.2, output = 5.5"),
    ("ovhcloud/gpt-oss-120b", "input = 0.2, output = 0.47"),
    ("perplexity/sonar", "input = 1, output = 1, request = 0.011"),
    ("cloudflare/@cf/zai-org/glm-4.7-flash", "input = 0.062, output = 0.4"),
    ("gemini/gemini-2.5-flash", "input = 0.3, output = 2.6, cache_read = 0.03"),
)


@pytest.mark.parametrize(("name", "prices"), _PLANTED)
def test_a_wrong_price_of_ours_shows(tmp_path: Path, name: str, prices: str) -> None:
    """An attack on the rules: at each host that has one, a price that is wrong by a little."""
    models = {
        "gpt-4.1": {
            **GPT_4O,
            "input_cost_per_token": 2e-06,
            "output_cost_per_token": 8e-06,
            "cache_read_input_token_cost": 5e-07,
            "search_context_cost_per_query": {"high": 0.025},
        },
        "gpt-4o": GPT_4O,
        "azure/gpt-4o": {**GPT_4O, "litellm_provider": "azure"},
        "gpt-5.5": {
            **_times(GPT_4O, 2),
            "max_input_tokens": 100_000,
            "output_cost_per_token": 3e-05,
            "cache_read_input_token_cost": 5e-07,
        },
        "azure/gpt-5.5": {
            **_times(GPT_4O, 2),
            "max_input_tokens": 100_000,
            "litellm_provider": "azure",
            "output_cost_per_token": 3e-05,
            "cache_read_input_token_cost": 5e-07,
        },
        "azure_ai/gpt-5.5": {
            **_times(GPT_4O, 2),
            "max_input_tokens": 100_000,
            "litellm_provider": "azure_ai",
            "output_cost_per_token": 3e-05,
            "cache_read_input_token_cost": 5e-07,
        },
        _HAIKU: CLAUDE,
        f"us.{_HAIKU}": _times(CLAUDE, 1.1),
        "perplexity/sonar": SONAR,
        **_CASES["euros"][0],
        **_CASES["rounded"][0],
        "gemini/gemini-2.5-flash": {
            "litellm_provider": "gemini",
            "input_cost_per_token": 3e-07,
            "output_cost_per_token": 2.5e-06,
            "cache_read_input_token_cost": 3e-08,
        },
    }
    right = _of(models)
    assert not right.causes
    path = tmp_path / "prices.toml"
    path.write_text(f'[models]\n"{name}" = {{ {prices} }}\n', encoding="utf-8")
    assert _of(models, Pricer(price_file=path)).causes


def test_hours_are_compared_at_their_time() -> None:
    peak = {
        "litellm_provider": "deepseek",
        "input_cost_per_token": 3e-07,
        "output_cost_per_token": 1.2e-06,
        "input_cost_per_token_cache_hit": 6e-09,
        "cache_read_input_token_cost": 6e-09,
        "off_peak_pricing": {
            "input_cost_per_token": 1.5e-07,
            "output_cost_per_token": 6e-07,
            "cache_read_input_token_cost": 3e-09,
            "windows": [
                {
                    "hours_utc": ["00:00-01:00", "04:00-06:00", "10:00-00:00"],
                    "weekdays": [1, 2, 3, 4, 5],
                },
                {"hours_utc": "00:00-00:00", "weekdays": [6, 7]},
            ],
        },
    }
    found = _of({"deepseek-flash": peak})
    assert not found.causes
    assert found.agreed == 3 * 3, "at a peak, on a weekend, at night"
    peak["off_peak_pricing"]["windows"].pop()
    assert _of({"deepseek-flash": peak}).causes
    assert Decimal(str(found.agreement)) == 1


def _diff(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["diff", *map(str, arguments)])


def test_the_command_exits_by_the_agreement(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"gpt-4o": GPT_4O}))
    assert _diff(path).exit_code == 0
    path.write_text(json.dumps({"gpt-4o": {**GPT_4O, "input_cost_per_token": 2e-06}}))
    result = _diff(path)
    assert result.exit_code == 1
    assert "of the usages cost the same, less than 99.50%" in result.output
    assert _diff(path, "--least", "0").exit_code == 0
    path.write_text("[]")
    result = _diff(path)
    assert (result.exit_code, "the map must be an object of models" in result.output) == (1, True)


def test_what_changed_since_a_table_is_told(tmp_path: Path) -> None:
    path, table = tmp_path / "map.json", tmp_path / "table.json"
    path.write_text(json.dumps({"gpt-4o": GPT_4O, "gpt-4o-mini": GPT_4O}))
    assert _diff(path, "--least", "0", "--save", table).exit_code == 0
    same = _diff(path, "--least", "0", "--since", table)
    assert f"since {table}: 0 changes" in same.output
    path.write_text(
        json.dumps({"gpt-4o": {**GPT_4O, "input_cost_per_token": 2e-06}, "gpt-4.1": GPT_4O})
    )
    changed = _diff(path, "--least", "0", "--since", table, "--all").output
    assert "gpt-4o: input of the map 2.5 -> 2" in changed
    assert "gpt-4.1: new" in changed
    assert "gpt-4o-mini: gone" in changed
    table.write_text('{"gpt-4o": 1}')
    wrong = _diff(path, "--since", table)
    assert (wrong.exit_code, "is no table of prices" in wrong.output) == (1, True)
    missing = _diff(path, "--since", tmp_path / "none.json")
    assert (missing.exit_code, "cannot be read" in missing.output) == (1, True)
    unwritable = _diff(path, "--save", tmp_path / "no" / "table.json")
    assert (unwritable.exit_code, "cannot be written" in unwritable.output) == (1, True)
