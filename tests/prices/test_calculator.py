"""What is charged here beside genai-prices' own calculator, over the same usage objects in every
shape that its list knows.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import pytest
from click.testing import CliRunner
from genai_prices import data_snapshot

from taximeter.api.commands import prices_diff
from taximeter.api.prices.calculator import answer_of, compare_with_package
from taximeter.meter.pricing import Pricer, counts_of, usage_shapes
from taximeter.meter.pricing.usage_parts import Written

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
ANSWERS = {
    ("openai", "chat"): {
        "prompt_tokens": 15,
        "completion_tokens": 13,
        "total_tokens": 28,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 6},
    },
    ("x-ai", "chat"): {
        "prompt_tokens": 15,
        "completion_tokens": 7,
        "total_tokens": 28,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 6},
    },
    ("x-ai", "default"): {
        "prompt_tokens": 15,
        "cached_prompt_text_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 28,
        "reasoning_tokens": 6,
    },
}


@pytest.mark.parametrize(("host", "flavor"), ANSWERS)
def test_an_answer_is_told_as_its_host_tells_it(host: str, flavor: str) -> None:
    [seller] = [one for one in data_snapshot.get_snapshot().providers if one.id == host]
    [shape] = [one for one in seller.extractors or () if one.api_flavor == flavor]
    counts = {"input": 10, "cache_read": 5, "output": 7, "reasoning": 6}
    answer = answer_of(shape, counts)
    assert answer == {"usage": ANSWERS[host, flavor]}
    assert counts_of(answer["usage"]).kinds == counts


def test_both_read_and_price_alike() -> None:
    """Every fifth model of the installed list; docs/prices-diff.md has all."""
    found = compare_with_package(Pricer(), NOON, every=5)
    assert not found.causes
    assert found.agreed > 5_000
    assert found.set_aside.keys() <= {"free_output", "not_worked_out", "laid_over", "refused"}


def test_what_is_read_wrongly_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_shapes, "written_of", lambda usage, details: Written(0))
    found = compare_with_package(Pricer(), NOON, every=20)
    assert ("anthropic", "written_1h, told as default") in found.causes
    assert {label.partition(",")[0] for _, label in found.causes} <= {"written", "written_1h"}


def test_the_command_has_it_without_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        prices_diff, "compare_with_package", partial(compare_with_package, every=40)
    )
    result = CliRunner().invoke(prices_diff.diff, ["--at", "2026-11-30T12:00"])
    assert result.exit_code == 0, result.output
    assert "beside the calculator of genai-prices" in result.output
    assert "100.00% of the former cost the same" in result.output
    result = CliRunner().invoke(prices_diff.diff, ["--save", "table.json"])
    assert (result.exit_code, "--since and --save need MAP" in result.output) == (2, True)
