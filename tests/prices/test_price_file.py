"""The operator's own prices: what a file can say, and that every mistake in it is named."""

from __future__ import annotations

import json
import os
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from taximeter.meter.pricing import Price, PriceFileError, Pricer, UnpricedModel, read_price_file
from taximeter.meter.pricing.price_file import parse_price_file


def usage(prompt: int, output: int = 0, cached: int = 0) -> dict[str, object]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def pricer(tmp_path: Path, models: str, name: str = "prices.toml") -> Pricer:
    path = tmp_path / name
    path.write_text(models)
    return Pricer(price_file=path)


FULL = """
version = "spring"
[models]
"gpt-4o" = { input = 3, output = 12, cache_read = "0.3" }
"house-*" = { input = 1, output = 2 }
"house-large*" = { input = 5, output = 6 }
"azure/gpt-4o" = { input = 4, output = 16 }
"only-here" = { provider = "groq", input = 7, output = 7 }
"painter" = { image = 0.04 }
"per-call" = { request = 0.01 }
[models.tiered]
input = 1
cache_read = 0.5
output = 10
context_window = 500000
max_output = 1000
tiers = [{ above = 100000, input = 2, output = 20 }, { above = 200000, input = 4 }]
[models.marginal]
input = 1
output = 10
tier_rule = "part"
tiers = [{ above = 100000, input = 2, output = 20 }]
[models.quick]
input = 1
output = 1
service_tiers = { priority = { input = 2, tiers = [{ above = 1000, input = 3 }] } }
"""


def test_the_file_comes_before_the_list(tmp_path: Path) -> None:
    ours = pricer(tmp_path, FULL)
    price = ours.price("gpt-4o")
    assert (price.source, price.version) == (
        "override",
        "prices.toml spring, 100 credits a dollar, markup 1",
    )
    assert price.cost(usage(10**6, 10**6)) == 1_500_000
    assert price.cost(usage(10**6, cached=10**6)) == 30_000
    assert ours.price("GPT-4o").cost(usage(10**6)) == 300_000, "capitals do not count"
    assert ours.price("gpt-4o", provider="azure").cost(usage(10**6)) == 400_000
    assert ours.price("gpt-4o-mini").source == "genai-prices"


def test_patterns_and_providers(tmp_path: Path) -> None:
    ours = pricer(tmp_path, FULL)
    assert ours.price("house-small").cost(usage(10**6)) == 100_000
    assert ours.price("house-large-2").cost(usage(10**6)) == 500_000, "the longest counts"
    assert ours.price("only-here").provider == "groq"
    assert ours.price("only-here", provider="groq").cost(usage(10**6)) == 700_000
    with pytest.raises(UnpricedModel):
        ours.price("only-here", provider="openai")


def test_a_tier_is_for_the_whole_request_or_for_the_part_above(tmp_path: Path) -> None:
    ours = pricer(tmp_path, FULL)
    whole = ours.price("tiered")
    assert whole.cost(usage(100_000, 1000)) == 10_000 + 1_000
    assert whole.cost(usage(100_001, 1000)) == 20_001 + 2_000  # 100,001 x 0.2, rounded up at last.
    assert whole.cost(usage(200_001, 0)) == 80_001
    assert whole.cost(usage(200_001, 1000)) == 80_001 + 2_000, "a tier names what it changes"
    # What is in no tier costs the same at any length.
    assert whole.cost(usage(150_000, 0, cached=150_000)) == 7_500
    part = ours.price("marginal")
    assert part.cost(usage(100_000)) == 10_000
    assert part.cost(usage(150_000)) == 10_000 + 10_000
    assert part.cost(usage(99_000, 2_000)) == 9_900 + 1_000 + 2_000
    assert part.cost(usage(150_000, 1_000)) == 20_000 + 2_000


def test_images_requests_and_service_tiers(tmp_path: Path) -> None:
    ours = pricer(tmp_path, FULL)
    assert ours.price("painter").cost({"images": 3}) == 12_000
    assert ours.price("painter").estimate(500, 0, images=3) == 12_000
    assert ours.price("per-call").cost(usage(5, 5)) == 1_000
    quick = ours.price("quick")
    assert quick.cost(usage(1000, 1000), service_tier="priority") == 200 + 100
    assert quick.cost(usage(2000, 1000), service_tier="priority") == 600 + 100
    assert quick.cost(usage(1000, 1000), service_tier="unheard-of") == 200
    assert quick.cost({**usage(1000, 1000), "service_tier": "priority"}) == 300


def test_bounds_of_the_file_bound_estimates(tmp_path: Path) -> None:
    price = pricer(tmp_path, FULL).price("tiered")
    assert price.estimate(0, 10**6) == price.estimate(0, 1000)
    assert price.estimate(10**9, 0) == price.estimate(500_000, 0)


WHEN = """
version = "hours"
dated = 2026-11-01
[models]
"night" = { input = 2, output = 4, off_peak = { input = 1, hours_utc = "22:00-06:00" }, \
service_tiers = { flex = { input = 0.5 }, batch = { output = 3 } } }
"working" = { input = 2, output = 4, off_peak = { input = 1, output = 2, weekday_timezone = \
"Asia/Shanghai", windows = [{ hours_utc = ["00:00-00:00"], weekdays = [6, 7] }] } }
"somewhere" = { input = 2, output = 4, search = 10, geos = { US = 1.1, eu = 1.25 } }
"""


@pytest.mark.parametrize(
    ("model", "moment", "dollars"),
    [
        ("night", "2026-11-30T21:59:59", 2),
        ("night", "2026-11-30T22:00:00", 1),
        ("night", "2026-11-30T05:59:59", 1),
        ("night", "2026-11-30T06:00:00", 2),
        ("working", "2026-11-27T15:59:59", 2),  # A Friday, and in Shanghai as well.
        ("working", "2026-11-27T16:00:00", 1),  # A Saturday in Shanghai.
        ("working", "2026-11-29T15:59:59", 1),
        ("working", "2026-11-29T16:00:00", 2),
    ],
)
def test_hours_of_lower_prices(tmp_path: Path, model: str, moment: str, dollars: int) -> None:
    _, listed = pricer(tmp_path, WHEN).sheet(model)
    at = datetime.fromisoformat(f"{moment}+00:00")
    sheet = listed.sheets[listed.place(at)][1]
    assert sheet.rates["input"].base == dollars
    if model == "night":
        tiers = {mode: rates["input"].base for mode, rates in sheet.modes.items()}
        assert tiers == {"flex": Decimal("0.5"), "batch": dollars}, "what a tier has of its own"


def test_factors_of_where_it_ran_and_the_day_of_the_file(tmp_path: Path) -> None:
    price = pricer(tmp_path, WHEN).price("somewhere")
    tokens = usage(1000, 1000)
    assert price.cost(tokens) == 600
    assert price.cost({**tokens, "inference_geo": "us"}) == 660
    assert price.cost({**tokens, "inference_geo": "EU", "web_searches": 1}) == 750 + 1000
    assert price.cost({**tokens, "inference_geo": "mars"}) == 600
    again = Price.unpacked(price.packed())
    assert again.cost({**tokens, "inference_geo": "us"}) == 660
    told = again.metadata({**tokens, "inference_geo": "us"})
    assert (told["price_geo"], told["price_dated"]) == ("us", "2026-11-01")
    assert price.metadata({**tokens, "inference_geo": "mars"})["unpriced_geo"] == "mars"
    assert "dated" not in str(pricer(tmp_path, FULL).price("gpt-4o").metadata())


def test_json_says_the_same(tmp_path: Path) -> None:
    text = '{"version": "v", "models": {"gpt-4o": {"input": 1.5e-07, "output": "0.10"}}}'
    price = pricer(tmp_path, text, "prices.json").price("gpt-4o")
    assert price.version.startswith("prices.json v,")
    found = read_price_file(tmp_path / "prices.json").models["gpt-4o"].sheet.rates
    assert (found["input"].base, found["output"].base) == (Decimal("1.5E-7"), Decimal("0.10"))


def test_prices_are_exact_far_below_a_float(tmp_path: Path) -> None:
    ours = pricer(tmp_path, "[models]\nm = { input = 0.1, output = 0.300000000000000001 }\n")
    price = ours.price("m")
    # 0.1 and 0.2 of anything are 0.3, and not a bit more that would round to the next millicredit.
    assert price.cost(usage(1_000_000)) == 10_000
    assert price.cost(usage(0, 1_000_000)) == 30_001


def test_a_version_without_a_name_is_a_digest_of_the_file(tmp_path: Path) -> None:
    first = pricer(tmp_path, "[models]\nm = { input = 1 }\n").price("m").version
    second = pricer(tmp_path, "[models]\nm = { input = 2 }\n").price("m").version
    assert first.startswith("prices.toml ")
    assert first != second


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models = 5", "line 1: models must be given, as a table of models"),
        ("", "models must be given"),
        ("[models]\nm = 1", 'line 2: model "m" must be a table of prices'),
        ("[models]\nm = {}", 'line 2: model "m" must have a price for one of'),
        ("[models]\n\nm = { input = -1 }", 'line 3: model "m" input must be a number of dollars'),
        ("[models]\nm = { input = nan }", "input must be a number of dollars"),
        ("[models]\nm = { input = inf }", "input must be a number of dollars"),
        ("[models]\nm = { input = true }", "input must be a number of dollars"),
        ("[models]\nm = { input = 1e7 }", "from 0 to 1000000 with at most 24 decimals"),
        ("[models]\nm = { input = 1e-25 }", "from 0 to 1000000 with at most 24 decimals"),
        ('[models]\nm = { input = "cheap" }', "input must be a number of dollars"),
        ("[models.m]\ninput = 1\noutptu = 2", 'line 3: model "m" outptu is no field; the fields'),
        ("[models.m]\ninput = 1\ntier_rule = 1", 'line 3: model "m" tier_rule must be whole or'),
        ("[models.m]\ninput = 1\nmax_output = 0", 'line 3: model "m" max_output must be a whole'),
        ("[models]\nm = { input = 1, tiers = 5 }", "tiers must be a list of tables"),
        (
            "[models]\nm = { input = 1, tiers = [{ above = 0, input = 1 }] }",
            "tiers[1].above must be a whole number of prompt tokens above 0",
        ),
        (
            "[models]\nm = { input = 1, tiers = [{ above = 9 }, { above = 9 }] }",
            "tiers[2].above must be a whole number of prompt tokens above 9",
        ),
        (
            "[models]\nm = { input = 1, tiers = [{ above = 9, output = 1 }] }",
            "tiers[1].output must also have a price below the tier",
        ),
        (
            "[models]\nm = { image = 1, tiers = [{ above = 9, image = 1 }] }",
            "tiers[1].image must be left out",
        ),
        (
            "[models]\nm = { input = 1, service_tiers = { flex = { inptu = 1 } } }",
            "service_tiers.flex.inptu is no field",
        ),
        ("[models]\nm = { input = 1, provider = 5 }", "provider must be text"),
        ("[models]\nm = { input = 1, not_metered = 5 }", "not_metered must be a list of texts"),
        ('[models]\n"a*b" = { input = 1 }', "with * at its end only"),
        ('[models]\n"M" = { input = 1 }\n"m" = { input = 2 }', "stands there twice"),
        ("[models]\nm = { input = 1 }\nm = { input = 2 }", "prices.toml: Cannot overwrite"),
        ("[models\n", "at line 1"),
        ("other = 1\n[models]\nm = { input = 1 }", "line 1: other is not a field here"),
        ("[models]\nm = { input = 1, geos = 5 }", "geos must be a table of factors"),
        ("[models]\nm = { input = 1, geos = { us = 0 } }", "geos.us must be a factor above 0, at"),
        (
            "[models]\nm = { input = 1, geos = { us = 101 } }",
            "geos.us must be a factor above 0, at",
        ),
        ("[models]\nm = { input = 1, off_peak = 5 }", "off_peak must be a table of hours"),
        ("[models]\nm = { input = 1, off_peak = { input = 1 } }", "hours_utc or windows must say"),
        (
            '[models]\nm = { input = 1, off_peak = { hours_utc = "1:00-2:00" } }',
            "off_peak must have a price",
        ),
        (
            '[models]\nm = { input = 1, off_peak = { input = 1, hours_utc = "at night" } }',
            "off_peak hours_utc must be hours such as 10:00-18:30",
        ),
        (
            "[models]\nm = { input = 1, off_peak = { input = 1, windows = [{ weekdays = [0], "
            'hours_utc = "01:00-02:00" }] } }',
            "off_peak weekdays must be a list of numbers from 1 (Monday) to 7",
        ),
        (
            '[models]\nm = { input = 1, off_peak = { input = 1, hours_utc = "01:00-02:00", '
            'weekday_timezone = "Nowhere" } }',
            "off_peak weekday_timezone must be a name such as Asia/Shanghai",
        ),
        ("[models]\nm = { input = 1, off_peak = { price = 1 } }", "off_peak.price is no field"),
        ('dated = "soon"\n[models]\nm = { input = 1 }', "line 1: dated must be a day such as"),
        ("dated = 2026-11-01T00:00:00Z\n[models]\nm = { input = 1 }", "dated must be a day"),
        ("version = 5\n[models]\nm = { input = 1 }", "line 1: version must be text"),
    ],
)
def test_a_mistake_is_named(text: str, said: str) -> None:
    with pytest.raises(PriceFileError) as refused:
        parse_price_file(text.encode(), "prices.toml")
    assert said in str(refused.value)
    assert "prices.toml" in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b"\xff", b"[]", b"5", b"{", b'{"models": {"a": {"input": 1}, "a": {}}}', b"[" * 100_000],
)
def test_what_is_no_price_file_is_refused(content: bytes) -> None:
    with pytest.raises(PriceFileError):
        parse_price_file(content, "prices.json")


def test_all_mistakes_are_told_at_once() -> None:
    models = {f"m{number}": {"input": -1} for number in range(100)}
    with pytest.raises(PriceFileError) as refused:
        parse_price_file(json.dumps({"models": models}).encode(), "p.json")
    assert len(refused.value.problems) == 100
    assert str(refused.value).endswith("and 80 more")


def test_a_changed_file_is_read_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    ours = pricer(tmp_path, "[models]\nm = { input = 1 }\n")
    before = ours.price("m")
    assert not ours.reload()
    rewrite(path, "[models]\nm = { input = 2 }\n")
    assert ours.reload()
    assert (before.cost(usage(10**6)), ours.price("m").cost(usage(10**6))) == (100_000, 200_000)
    rewrite(path, "[models]\nm = { input = -2 }\n")
    with pytest.raises(PriceFileError, match="line 2"):
        ours.reload()
    assert not ours.reload(), "it is told once"
    assert ours.price("m").cost(usage(10**6)) == 200_000
    path.unlink()
    with pytest.raises(PriceFileError, match="cannot be read"):
        ours.reload()
    assert ours.price("m").cost(usage(10**6)) == 200_000
    rewrite(path, "[models]\nm = { input = 3 }\n")
    assert ours.reload()
    assert ours.price("m").cost(usage(10**6)) == 300_000


def rewrite(path: Path, text: str) -> None:
    """As an editor does: another file in its place, so that no clock's grain counts."""
    made = path.with_suffix(".new")
    made.write_text(text)
    os.replace(made, path)


def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(PriceFileError, match="cannot be read"):
        Pricer(price_file=tmp_path / "none.toml")
