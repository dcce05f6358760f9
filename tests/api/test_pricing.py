"""What a request costs: exact dollars, rounded up once, cached tokens at their own rate."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

import pytest
from genai_prices import Usage, data_snapshot

from taximeter.api.simulator.app import MODELS
from taximeter.meter.pricing import Price, Pricer, TokenPrice, UnpricedModel, published
from taximeter.meter.pricing.identity import Identity
from taximeter.meter.pricing.published import PublishedPrices
from taximeter.meter.wire.limits import AMOUNT_MAX

PRICER = Pricer()
PUBLISHED = PublishedPrices()
TOKENS = {"input", "output", "cache_read", "cache_write", "cache_write_1h"}


def usage(prompt: int, completion: int, **details: object) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **details}


def test_list_price_in_millicredits() -> None:
    # 2.50 and 10 dollars a million, 100 credits a dollar: 250 + 1000 credits.
    assert PRICER.price("gpt-4o").cost(usage(10**6, 10**6)) == 1_250_000
    assert PRICER.price("gpt-4o").cost(usage(0, 0)) == 0


def test_rounding_is_up_and_once() -> None:
    assert PRICER.price("gpt-4o-mini").cost(usage(1, 0)) == 1
    assert PRICER.price("gpt-4o").cost(usage(4, 0)) == 1  # exactly one millicredit
    assert PRICER.price("gpt-4o").cost(usage(5, 0)) == 2


def test_cached_tokens_are_part_of_the_prompt() -> None:
    plain = PRICER.price("gpt-4o").cost(usage(10**6, 0))
    cached = PRICER.price("gpt-4o").cost(
        usage(10**6, 0, prompt_tokens_details={"cached_tokens": 10**6})
    )
    assert (plain, cached) == (250_000, 125_000)
    reasoning = usage(0, 10**6, completion_tokens_details={"reasoning_tokens": 10**6})
    assert PRICER.price("gpt-4o").cost(reasoning) == PRICER.price("gpt-4o").cost(usage(0, 10**6))


@pytest.mark.parametrize(
    "details",
    [
        {"cached_tokens": 10**9},
        {"cached_tokens": -5},
        {"cached_tokens": "5"},
        {"cached_tokens": True},
        {"cached_tokens": None},
        {"audio_tokens": 10**9},
        [],
    ],
)
def test_details_that_make_no_sense_never_break_or_cheapen_a_charge(details: object) -> None:
    cost = PRICER.price("gpt-4o").cost(usage(1000, 1000, prompt_tokens_details=details))
    assert cost == PRICER.price("gpt-4o").cost(usage(1000, 1000))


@pytest.mark.parametrize("count", [-1, None, "7", 1.5, True, [], 10**30])
def test_counts_that_make_no_sense_never_break_a_charge(count: object) -> None:
    assert PRICER.price("gpt-4o").cost({"prompt_tokens": count, "completion_tokens": 0}) >= 0


def test_service_tier_has_its_own_price() -> None:
    standard = PRICER.price("gpt-4o").cost(usage(10**6, 0))
    assert PRICER.price("gpt-4o").cost(usage(10**6, 0), service_tier="priority") > standard
    assert PRICER.price("gpt-4o").cost(usage(10**6, 0), service_tier="auto") == standard


def test_rates_of_the_operator() -> None:
    assert Pricer(markup=Decimal("1.5")).price("gpt-4o").cost(usage(10**6, 0)) == 375_000
    assert Pricer(credits_per_dollar=Decimal(1)).price("gpt-4o").cost(usage(10**6, 0)) == 2_500
    for wrong in (Decimal(0), Decimal(-1), Decimal("NaN")):
        with pytest.raises(ValueError, match="credits_per_dollar"):
            Pricer(credits_per_dollar=wrong)


def test_policies_for_a_model_without_a_price() -> None:
    with pytest.raises(UnpricedModel, match="nobody-sells-this"):
        PRICER.price("nobody-sells-this")
    assert Pricer(unknown_model="free").price("nobody-sells-this").cost(usage(10**6, 10**6)) == 0
    price = TokenPrice(Decimal(1), Decimal(2))
    fallback = Pricer(unknown_model="default", default_price=price).price("nobody-sells-this")
    assert fallback.cost(usage(10**6, 10**6)) == 300_000
    assert fallback.source == "default"


@pytest.mark.slow
def test_names_that_callers_make_up_fill_no_memory() -> None:
    pricer = Pricer(unknown_model="free")
    for number in range(5000):
        pricer.price(f"made-up-{number}")
    assert len(pricer._prices) <= 4096


@pytest.mark.parametrize("model", MODELS)
def test_the_simulated_models_have_prices(model: str) -> None:
    assert PRICER.price(model).estimate(100, 100) > 0


def test_prices_are_what_the_list_works_out_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model of the list that is sold by tokens alone, at the time of the test, without what
    is amended here: long prompts, short ones, cached and written tokens.
    """
    monkeypatch.setattr(published, "amended", lambda sheet, *_: sheet)
    seen = written = 0
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            price = PUBLISHED.listed(Identity(provider.id, model.id.lower()), provider, model)
            kinds = set() if price is None else set(price.sheets[0][1].rates)
            if not {"input", "output"} <= kinds <= TOKENS:
                continue
            assert price is not None
            seen += 1
            sheet = price.sheets[price.place()][1]
            made = Price.of(
                sheet, Decimal(10**9), model=model.id, provider="", source="", version=""
            )
            if provider.id == "deepseek" and len(price.sheets) > 1:
                continue  # Its peaks are those of working days, which the list does not know.
            for prompt, cached, into in ((412_345, 901, 0), (1_201, 0, 0), (9_001, 512, 1_024)):
                if into and "cache_write" not in kinds:
                    continue
                written += bool(into)
                counts = {
                    **{"input_tokens": prompt, "output_tokens": 678},
                    **({"cache_read_tokens": cached} if cached else {}),
                    **({"cache_write_tokens": into} if into else {}),
                }
                details = {"cached_tokens": cached, "cache_write_tokens": into}
                listed = model.calc_price(Usage(**counts), provider).total_price
                exact = (listed * 10**9).to_integral_value(ROUND_CEILING)
                reported = usage(prompt, 678, prompt_tokens_details=details)
                assert made.cost(reported) == min(exact, AMOUNT_MAX), model.id
    assert seen > 1500
    assert written > 100
