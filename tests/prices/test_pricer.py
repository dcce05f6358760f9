"""Which price a request gets, what is made of it, and that it stays what it was."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taximeter.meter.pricing import Price, Pricer, TokenPrice, UnpricedModel
from taximeter.meter.wire.limits import AMOUNT_MAX

MILLION = {"prompt_tokens": 10**6, "completion_tokens": 10**6}


def test_the_plans_markup_stands_for_the_general_one_and_levels_multiply() -> None:
    pricer = Pricer(
        credits_per_dollar=Decimal(10),
        markup=Decimal("1.2"),
        markup_by_plan={"trial": Decimal(2), "enterprise": Decimal("1.05")},
        markup_by_power_level={"precision": Decimal("1.5"), "eco": Decimal("0.5")},
    )
    # 12.50 dollars are 125 credits.
    for plan, level, millicredits in (
        (None, None, 150_000),
        ("starter", None, 150_000),
        ("trial", None, 250_000),
        ("enterprise", None, 131_250),
        (None, "precision", 225_000),
        ("trial", "eco", 125_000),
        ("trial", "made up by a caller", 250_000),
    ):
        price = pricer.price("gpt-4o", plan=plan, power_level=level)
        assert price.cost(MILLION) == millicredits
    version = pricer.price("gpt-4o", plan="trial", power_level="eco").version
    assert version.endswith("10 credits a dollar, markup 2 of trial, eco 0.5")
    with pytest.raises(ValueError, match="markup"):
        Pricer(markup_by_plan={"trial": Decimal(-1)})


def test_one_rounding_whatever_the_markup() -> None:
    """Each of the two parts alone would be rounded up to a whole millicredit."""
    pricer = Pricer(markup=Decimal("1.000001"))
    assert pricer.price("gpt-4o-mini").cost({"prompt_tokens": 10, "completion_tokens": 1}) == 1
    assert Pricer().price("gpt-4o-mini").cost({"prompt_tokens": 200, "completion_tokens": 0}) == 3
    exact = {"prompt_tokens": 400, "completion_tokens": 100}  # 0.00012 dollars: 12 millicredits.
    assert Pricer().price("gpt-4o-mini").cost(exact) == 12
    assert pricer.price("gpt-4o-mini").cost(exact) == 13


def test_a_model_without_a_price_is_never_silently_unmetered() -> None:
    model = "nobody-sells-this"
    with pytest.raises(UnpricedModel, match=model):
        Pricer().price(model)
    free = Pricer(unknown_model="free").price(model)
    assert free.cost(MILLION) == 0
    assert free.estimate(1000, 1000) == 0
    metadata = free.metadata()
    assert (metadata["price_source"], metadata["free"]) == ("free", True)
    price = TokenPrice(Decimal(1), Decimal(2))
    default = Pricer(unknown_model="default", default_price=price).price(model)
    assert default.cost(MILLION) == 300_000
    assert default.metadata() == {
        "price_source": "default",
        "price_version": "default 1 in 2 out, 100 credits a dollar, markup 1",
        "price_of": model,
    }


def test_a_kind_that_is_not_sold_is_no_price() -> None:
    """A model that is sold by the hour must not be free for who sends tokens to it."""
    with pytest.raises(UnpricedModel):
        Pricer().price("whisper-1").estimate(1000, 1000)
    with pytest.raises(UnpricedModel):
        Pricer().price("elevenlabs-speech")


def test_images_of_a_model_that_is_sold_by_tokens_are_never_free() -> None:
    price = Pricer().price("gpt-image-1")
    held = price.estimate(100, 0, images=2)
    assert held >= price.cost({"images": 2}) > 2 * 6_000 * 4
    other = Pricer().price("gpt-image-1.5")
    untold = {"input_tokens": 47, "output_tokens": 4160, "images": 1}
    told = {**untold, "output_tokens_details": {"image_tokens": 4160, "text_tokens": 0}}
    # 47 at 5 and 4160 at 32 dollars a million, also where the usage does not tell its output apart.
    assert other.cost(untold) == other.cost(told) == 13_336
    reported = {"input_tokens": 100, "output_tokens": 4160, "images": 1}
    assert price.cost(reported) == price.cost({"input_tokens": 100, "output_tokens": 4160})


def test_provider_in_the_name_or_beside_it() -> None:
    pricer = Pricer()
    assert pricer.price("openai/gpt-4o").provider == "openai"
    assert pricer.price("gpt-4o", provider="azure").provider == "azure"
    assert Pricer(provider_id="azure").price("gpt-4o").provider == "azure"
    assert pricer.price("text-embedding-3-small").provider == "openai"
    with pytest.raises(UnpricedModel):
        pricer.price("gpt-4o", provider="no-such-provider")


def test_a_price_is_found_once() -> None:
    pricer = Pricer()
    assert pricer.price("gpt-4o") is pricer.price("gpt-4o")


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-5.4", "claude-sonnet-4-5", "gemini-2.5-flash", "gpt-image-1", "sonar"]
)
@given(prompt=st.integers(0, 10**6), output=st.integers(0, 10**5), cached=st.integers(0, 10**5))
def test_a_price_survives_the_way_with_its_hold(
    model: str, prompt: int, output: int, cached: int
) -> None:
    price = Pricer(markup=Decimal("1.07")).price(
        model, provider=None if model != "sonar" else "perplexity"
    )
    packed = json.dumps(price.packed())
    assert len(packed) < 1_500, "a payload has 4,096 bytes"
    again = Price.unpacked(json.loads(packed))
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    for tier in (None, "priority"):
        assert again.cost(usage, service_tier=tier) == price.cost(usage, service_tier=tier)
    assert again.metadata() == price.metadata()


@pytest.mark.parametrize(
    "packed",
    [
        {},
        {"m": "x", "p": [], "r": {}, "s": {}},
        {"m": "x", "p": ["", "", "", 0, False], "r": {}, "s": {}},
        {"m": "x", "p": ["", "", "", 1, False], "r": {"input": "1"}, "s": {}},
        {"m": "x", "p": ["", "", "", 1, False], "r": {"input": -1}, "s": {}},
        {"m": "x", "p": ["", "", "", 1, False], "r": {"nope": 1}, "s": {}},
        {"m": "x", "p": ["", "", "", 1, False], "r": {"input": []}, "s": {}},
        {"m": "x", "p": ["", "", "", 1, False], "r": {}, "s": 5},
    ],
)
def test_what_is_no_packed_price_is_refused(packed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a packed price"):
        Price.unpacked(packed)


def test_no_cost_is_more_than_the_meter_takes() -> None:
    most = {"prompt_tokens": 10**9, "completion_tokens": 10**9}
    assert Pricer(credits_per_dollar=Decimal(10**6)).price("o1-pro").cost(most) == AMOUNT_MAX


def test_prices_without_the_package_come_from_the_file(tmp_path: Path) -> None:
    """The plain install has neither the list nor anything that it needs."""
    path = tmp_path / "prices.toml"
    path.write_text("[models]\nours = { input = 1 }\n")
    code = f"""
import sys
sys.modules["genai_prices"] = None
from pathlib import Path
from taximeter.meter.pricing import Pricer, UnpricedModel
pricer = Pricer(price_file=Path({str(path)!r}))
print(pricer.price("ours").cost({{"prompt_tokens": 1000000, "completion_tokens": 0}}))
try:
    pricer.price("gpt-4o")
except UnpricedModel:
    print("unpriced")
assert "pydantic" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "100000\nunpriced\n"), ran.stderr


def test_a_service_tier_without_a_price_is_refused(tmp_path: Path) -> None:
    plain = Pricer().price("cohere/command-r-plus")
    for tier in (None, "", "auto", "default", "standard", "standard_only", "on_demand", "scale"):
        assert plain.estimate(10, 10, service_tier=tier) > 0
    with pytest.raises(UnpricedModel, match=r"Service tier 'priority' of model 'cohere/command-r"):
        plain.estimate(10, 10, service_tier="priority")
    path = tmp_path / "prices.toml"
    path.write_text('[models]\n"own" = { input = 1, output = 1 }\n')
    own = Pricer(price_file=path).price("own")
    assert own.estimate(10, 10, service_tier="priority") > 0, "the operator's price is for all"


def test_a_charge_says_that_a_tier_of_the_answer_has_no_price() -> None:
    plain = Pricer().price("cohere/command-r-plus")
    usage = {"prompt_tokens": 1_000, "completion_tokens": 0}
    assert plain.cost(usage, service_tier="priority") == plain.cost(usage), "none is invented"
    assert plain.metadata(usage, "priority")["unpriced_service_tier"] == "priority"
    assert plain.metadata({**usage, "service_tier": "flex"})["unpriced_service_tier"] == "flex"
    assert "unpriced_service_tier" not in plain.metadata(usage, "default")
    gemini = Pricer().price("gemini/gemini-2.5-flash")
    told = {"promptTokenCount": 10, "totalTokenCount": 10, "trafficType": "ON_DEMAND_PRIORITY"}
    assert "unpriced_service_tier" not in gemini.metadata(told)
