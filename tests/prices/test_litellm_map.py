"""LiteLLM's price map becomes a price file: exactly, and with nothing dropped without a word."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from taximeter.meter.pricing import PriceFileError, Pricer
from taximeter.meter.pricing.file_text import price_file_text
from taximeter.meter.pricing.litellm_map import read_map
from taximeter.meter.pricing.price_file import parse_price_file
from taximeter.meter.pricing.sheet import Rate, Sheet

MAP = """{
"sample_spec": {"input_cost_per_token": 0.0, "litellm_provider": "one of them", "mode": "chat"},
"gpt-4o": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05,
  "cache_read_input_token_cost": 1.25e-06, "input_cost_per_token_priority": 4.25e-06,
  "output_cost_per_token_flex": 5e-06, "input_cost_per_token_batches": 1.25e-06,
  "litellm_provider": "openai", "max_input_tokens": 128000, "max_output_tokens": 16384,
  "mode": "chat", "supports_vision": true},
"exact": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 0.0000006000000000000001},
"claude-sonnet-4-5": {"input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05,
  "cache_creation_input_token_cost": 3.75e-06, "cache_read_input_token_cost": 3e-07,
  "cache_creation_input_token_cost_above_1hr": 6e-06,
  "input_cost_per_token_above_200k_tokens": 6e-06,
  "output_cost_per_token_above_200k_tokens": 2.25e-05,
  "cache_creation_input_token_cost_above_200k_tokens": 7.5e-06,
  "cache_creation_input_token_cost_above_1hr_above_200k_tokens": 1.2e-05,
  "cache_read_input_token_cost_above_200k_tokens": 6e-07,
  "search_context_cost_per_query": {"search_context_size_low": 0.005,
    "search_context_size_high": 0.01}, "litellm_provider": "anthropic"},
"gpt-5.4": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": 1.5e-05,
  "input_cost_per_token_above_272k_tokens": 5e-06, "input_cost_per_token_flex": 1.25e-06,
  "input_cost_per_token_above_272k_tokens_flex": 2.5e-06},
"speaker": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06,
  "input_cost_per_audio_token": 4e-05, "output_cost_per_audio_token": 8e-05,
  "output_cost_per_reasoning_token": 3e-06, "cache_read_input_audio_token_cost": 1e-06,
  "input_cost_per_image_token": 5e-06},
"qwen": {"mode": "chat", "tiered_pricing": [
  {"input_cost_per_token": 4e-07, "output_cost_per_token": 1.2e-06, "range": [0, 256000.0]},
  {"input_cost_per_token": 1.2e-06, "output_cost_per_token": 3.6e-06, "range": [256000, 1000000]}]},
"imagen": {"output_cost_per_image": 0.04, "mode": "image_generation"},
"drawing-chat": {"input_cost_per_token": 3e-07, "output_cost_per_image": 0.039,
  "output_cost_per_image_token": 3e-05, "output_cost_per_token": 2.5e-06},
"dall-e-3": {"input_cost_per_image": 0.08, "mode": "image_generation"},
"512-x-512/dall-e-2": {"input_cost_per_pixel": 6.86e-08, "output_cost_per_pixel": 0.0,
  "mode": "image_generation"},
"whisper-1": {"input_cost_per_second": 0.0001, "output_cost_per_second": 0.0001,
  "mode": "audio_transcription"},
"half": {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06,
  "file_search_cost_per_1k_calls": 0.0025, "code_interpreter_cost_per_session": 0.03},
"rerank": {"input_cost_per_query": 0.002, "input_cost_per_token": 0.0},
"tts": {"input_cost_per_character": 1.5e-05, "mode": "audio_speech"},
"by-the-second": {"input_cost_per_second": 0.001, "mode": "chat"},
"size-unknown": {"input_cost_per_pixel": 1e-08, "mode": "image_generation"},
"local": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
"nothing": {"mode": "moderation"},
"negative": {"input_cost_per_token": -1e-06},
"wordy": {"input_cost_per_token": "a lot"},
"above-only": {"output_cost_per_token": 1e-06, "output_cost_per_token_above_200k_tokens": 2e-06,
  "input_cost_per_token_above_200k_tokens": 2e-06}
}"""
FOUND = read_map(MAP.encode())


def sheet(model: str) -> Sheet:
    text = price_file_text(FOUND.models, "title")
    return parse_price_file(text.encode(), "prices.toml").models[model].sheet


def prices(model: str) -> dict[str, str]:
    return {kind: str(rate.base) for kind, rate in sheet(model).rates.items()}


def test_scientific_notation_is_exact() -> None:
    assert prices("exact") == {"input": "0.15", "output": "0.6000000000000001"}
    assert "1.5e" not in price_file_text(FOUND.models, "title")


def test_caches_limits_and_service_tiers() -> None:
    found = sheet("gpt-4o")
    assert prices("gpt-4o") == {"cache_read": "1.25", "input": "2.5", "output": "10"}
    assert (found.context_window, found.max_output) == (128_000, 16_384)
    assert {mode: str(rates["input"].base) for mode, rates in found.modes.items()} == {
        "batch": "1.25",
        "flex": "2.5",
        "priority": "4.25",
    }
    assert found.modes["flex"]["output"].base == 5
    assert found.not_metered == ()


def test_tiers_above_a_context_size() -> None:
    def tiered(*steps: str) -> Rate:
        return Rate(Decimal(steps[0]), ((200_000, Decimal(steps[1])),))

    assert dict(sheet("claude-sonnet-4-5").rates) == {
        "input": tiered("3", "6"),
        "output": tiered("15", "22.5"),
        "cache_read": tiered("0.3", "0.6"),
        "cache_write": tiered("3.75", "7.5"),
        "cache_write_1h": tiered("6", "12"),
        "search": Rate(Decimal(10)),
    }
    five = sheet("gpt-5.4")
    assert five.rates["input"].tiers == ((272_000, Decimal(5)),)
    assert five.modes["flex"]["input"].tiers == ((272_000, Decimal("2.5")),)
    qwen = sheet("qwen").rates
    assert qwen["input"] == Rate(Decimal("0.4"), ((256_000, Decimal("1.2")),))


def test_audio_images_and_seconds() -> None:
    assert prices("speaker") == {
        "cache_read_audio": "1",
        "input": "1",
        "input_audio": "40",
        "input_image": "5",
        "output": "2",
        "output_audio": "80",
        "reasoning": "3",
    }
    assert prices("imagen") == {"image": "0.04"}
    assert prices("dall-e-3") == {"image": "0.08"}
    assert prices("512-x-512/dall-e-2") == {"image": "0.0179830784"}
    assert prices("whisper-1") == {"audio_hour": "0.36"}
    assert "image" not in prices("drawing-chat"), "its images are counted in tokens"
    assert prices("drawing-chat")["output_image"] == "30"


def test_what_cannot_be_metered_is_said() -> None:
    half = ["file_search_cost_per_1k_calls", "code_interpreter_cost_per_session"]
    assert FOUND.notes == {"half": half}
    assert list(sheet("half").not_metered) == half
    assert FOUND.left_out == {
        "rerank": "cannot be metered: input_cost_per_query",
        "tts": "cannot be metered: input_cost_per_character",
        "by-the-second": "cannot be metered: input_cost_per_second",
        "size-unknown": "cannot be metered: input_cost_per_pixel",
        "local": "every price is 0",
        "nothing": "has no price",
        "negative": FOUND.left_out["negative"],
        "wordy": FOUND.left_out["wordy"],
        "above-only": "input has a price above 200000 tokens only",
    }
    for model in ("negative", "wordy"):
        assert FOUND.left_out[model].startswith("input_cost_per_token must be a number")
    named = {*FOUND.models, *FOUND.left_out}
    assert named == json.loads(MAP).keys() - {"sample_spec"}


FACTORS = """{
"claude-opus-4-8": {"litellm_provider": "anthropic", "input_cost_per_token": 5e-06,
  "output_cost_per_token": 2.5e-05, "cache_read_input_token_cost": 5e-07,
  "input_cost_per_token_above_200k_tokens": 1e-05,
  "search_context_cost_per_query": {"search_context_size_high": 0.01},
  "provider_specific_entry": {"us": 1.1, "fast": 2.0}},
"deepseek/deepseek-flash": {"litellm_provider": "deepseek", "input_cost_per_token": 3e-07,
  "output_cost_per_token": 1.2e-06, "off_peak_pricing": {"input_cost_per_token": 1.5e-07,
    "output_cost_per_token": 6e-07, "weekday_timezone": "Asia/Shanghai",
    "windows": [{"hours_utc": "10:00-00:00", "weekdays": [1, 2, 3, 4, 5]}]}},
"gpt-6-astra": {"litellm_provider": "openai", "input_cost_per_token": 1e-05,
  "output_cost_per_token": 5e-05, "regional_processing_uplift_multiplier_eu": 1.1,
  "fedramp_uplift_multiplier": 1.0, "provider_specific_entry": {"realtime_ga_only": 1}},
"odd": {"input_cost_per_token": 1e-06, "off_peak_pricing": {"hours_utc": "at night"}},
"partly": {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06,
  "off_peak_pricing": {"hours_utc": "01:00-02:00", "input_cost_per_query": 0.1}}
}"""


def test_factors_and_hours_are_taken_over(tmp_path: Path) -> None:
    """Where it ran and how fast, as the usage says it; what no usage tells is reported."""
    found = read_map(FACTORS.encode())
    path = tmp_path / "prices.toml"
    path.write_text(price_file_text(found.models, "Imported"))
    pricer = Pricer(price_file=path)
    price = pricer.price("claude-opus-4-8")
    usage = {"input_tokens": 1_000, "output_tokens": 1_000, "cache_read_input_tokens": 1_000}
    searched = {**usage, "server_tool_use": {"web_search_requests": 1}}
    assert price.cost(usage) == 3_050
    assert price.cost({**usage, "inference_geo": "us"}) == 3_355
    assert price.cost({**usage, "speed": "fast"}) == 6_100
    assert price.cost({**searched, "speed": "fast"}) == 6_100 + 1_000
    assert price.cost({"input_tokens": 300_000, "output_tokens": 0, "speed": "fast"}) == 600_000
    _, listed = pricer.sheet("deepseek/deepseek-flash")
    for hour, dollars in ((9, "0.3"), (11, "0.15")):
        at = datetime(2026, 11, 30, hour, tzinfo=UTC)
        assert str(listed.sheets[listed.place(at)][1].rates["input"].base) == dollars
    assert found.notes == {
        "gpt-6-astra": ["regional_processing_uplift_multiplier_eu"],
        "partly": ["off_peak_pricing.input_cost_per_query"],
    }
    assert found.left_out == {
        "odd": "hours_utc must be hours such as 10:00-18:30, or a list of such"
    }


def test_free_models_only_when_they_are_wanted() -> None:
    found = read_map(MAP.encode(), with_free=True)
    assert found.models["local"] == {"input": Decimal(0), "output": Decimal(0)}
    assert "local" not in found.left_out


def test_a_provider_at_a_time() -> None:
    assert list(read_map(MAP.encode(), providers=["openai"]).models) == ["gpt-4o"]


def test_every_number_of_the_map_is_what_the_file_charges(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(price_file_text(FOUND.models, "title"))
    pricer = Pricer(price_file=path)
    for model, fields in json.loads(MAP, parse_float=Decimal).items():
        if model not in FOUND.models or "input_cost_per_token" not in fields:
            continue
        price = pricer.price(model)
        assert price.source == "override"
        for name, field in (("input_cost_per_token", "prompt_tokens"),):
            tokens = 100_000
            usage = {"prompt_tokens": 0, "completion_tokens": 0, field: tokens}
            assert price.cost(usage) == fields[name] * tokens * 100_000, model


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1}', b"{" * 10, b"\xff"])
def test_what_is_no_map_is_refused(content: bytes) -> None:
    with pytest.raises(PriceFileError, match="map"):
        read_map(content)
