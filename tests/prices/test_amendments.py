"""Corrections by pattern: each has its source, reaches every name of its models, and fails here
when the list of the package has caught up, so that it goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import translate
from functools import cached_property
from typing import Any

import pytest

from taximeter.meter.pricing import Price, Pricer
from taximeter.meter.pricing.amendments import Amendment, amended, amendments, parse_amendments
from taximeter.meter.pricing.identity import Identity
from taximeter.meter.pricing.lists import PriceLists
from taximeter.meter.pricing.published import PublishedPrices, sheet_of
from taximeter.meter.pricing.sheet import Rate, Sheet

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
PRICER = Pricer()
ALSO_AT = {"openai": "azure", "google": "vertex", "anthropic": "azure"}


@dataclass
class Named:
    """A model of the list at a host: its id there, its other names, and what the list has of it."""

    host: str
    model: str
    names: tuple[str, ...]
    sheet: Sheet

    @cached_property
    def spelled(self) -> tuple[str, ...]:
        """Its names, as host/name."""
        return tuple(f"{self.host}/{name}" for name in {self.model, *self.names})


def _words(clause: Any) -> Iterator[str]:
    for field in ("equals", "starts_with", "contains", "ends_with"):
        if isinstance(found := getattr(clause, field, None), str):
            yield found.lower()
    for one in (*(getattr(clause, "or_", ()) or ()), *(getattr(clause, "and_", ()) or ())):
        yield from _words(one)


@pytest.fixture(scope="module")
def models() -> list[Named]:
    found = []
    for provider in PublishedPrices().providers():
        for model in provider.models:
            prices = model.prices if not isinstance(model.prices, list) else model.prices[-1].prices
            names = tuple(sorted({model.id.lower(), *_words(model.match)}))
            hosts = [
                provider.id,
                *(host for maker, host in ALSO_AT.items() if maker == provider.id),
            ]
            if provider.id == "anthropic":
                hosts.append("vertex")
            found += [
                Named(host, model.id.lower(), names, sheet_of(model, prices)) for host in hosts
            ]
    return found


def _of(one: Amendment, models: list[Named]) -> list[Named]:
    """The models that it is for: by their names in the list, or by what the list means by one."""
    is_meant = re.compile("|".join(map(translate, one.models))).match
    found = [
        named
        for named in models
        if any(is_meant(name) and one.is_for(name) for name in named.spelled)
    ]
    for pattern in one.models if not found else ():
        host, _, name = pattern.replace("*", "").partition("/")
        meant = PublishedPrices().resolve(Identity(host, name))
        if meant is not None:
            at = (host, meant[1].id.lower())
            found += [named for named in models if (named.host, named.model) == at]
    return found


@pytest.mark.parametrize("one", amendments(), ids=lambda one: one.models[0])
def test_each_is_still_needed(one: Amendment, models: list[Named]) -> None:
    """When the list has caught up with a part of one, that part can go."""
    assert re.search(r"https?://|by azure-genai-prices", one.source), "where it can be read"
    assert datetime.fromisoformat(one.as_of).date() <= NOW.date()
    meant = _of(one, models)
    assert meant, f"no model of the list is called {one.models}: take the amendment out"
    for mode in one.service_tiers:
        assert any(mode not in named.sheet.modes for named in meant), (
            f"the list has the {mode} tier of {one.models}: take it out of the amendment"
        )
    for kind, price in one.prices.items():
        assert any(named.sheet.rates.get(kind) != Rate(price) for named in meant), (
            f"the list has the price of {kind} of {one.models}: take it out of the amendment"
        )
    for kind in one.shares:
        assert any(kind not in named.sheet.rates for named in meant), (
            f"the list has a price of {kind} of {one.models}: take it out of the amendment"
        )
    if one.long is not None:
        assert any(
            not any(rate.tiers for rate in rates.values())
            for named in meant
            for rates in (named.sheet.rates, *named.sheet.modes.values())
        ), f"the list has the long prompts of {one.models}: take them out of the amendment"
    if one.search_once:
        assert any("search" in named.sheet.rates for named in meant)
    for geo in one.geos:
        keys = {
            key
            for provider in PublishedPrices().providers()
            for model in provider.models
            if (provider.id, model.id.lower()) in {(named.host, named.model) for named in meant}
            for variant in model.price_variants or ()
            for key in variant.when
        }
        assert not [key for key in keys if "geo" in key], (
            f"the list has prices of {one.models} in {geo}: take it out of the amendment"
        )


def test_each_pattern_means_something(models: list[Named]) -> None:
    for one in amendments():
        for pattern in one.models:
            assert _of(replace(one, models=(pattern,), but_not=()), models), pattern


def test_they_reach_every_name_of_a_model(models: list[Named]) -> None:
    """By whichever name of the list a model is asked for, it costs what is said of it: every third
    model, to be cheap.
    """
    lists = PriceLists(None)
    asked = 0
    for named in models[::3]:
        wanted = [one for one in amendments() if one.is_for(f"{named.host}/{named.model}")]
        if not wanted:
            continue
        for name in named.names:
            of = Identity(named.host, name)
            listed = lists.find(name, of)
            if listed is None or any(
                one.is_for(f"{of.provider}/{name}") for one in amendments() if one not in wanted
            ):
                continue  # The list does not mean it alone, or it has more said of it.
            asked += 1
            sheet = listed.sheets[listed.place(NOW)][1]
            for one in wanted:
                assert one.service_tiers.keys() <= sheet.modes.keys(), (named, name)
                assert not one.shares.keys() - sheet.rates.keys(), (named, name)
                assert sheet.search_once or not one.search_once, (named, name)
    assert asked > 250


def test_a_charge_says_that_its_price_was_amended() -> None:
    assert "amended 2026-11-30" in PRICER.price("gemini/gemini-2.5-flash").version
    assert "amended" not in PRICER.price("gpt-4o-mini").version


def test_what_is_first_in_the_file_counts() -> None:
    first, second = parse_amendments(
        """
        [[amendment]]
        models = ["a/*-b"]
        service_tiers = { flex = { factor = 0.5, output = 7, as_usual = ["cache_read"] } }
        source = "s"
        as_of = "2026-01-01"
        [[amendment]]
        models = ["a/*"]
        service_tiers = { flex = 0.1, batch = 0.5 }
        source = "s"
        as_of = "2026-01-01"
        """
    )
    plain = {
        kind: Rate(Decimal(price))
        for kind, price in (("input", 2), ("cache_read", 1), ("output", 4), ("search", 10))
    }
    sheet = second.with_tiers(first.with_tiers(Sheet(plain)))
    assert sheet.modes["flex"] == {**plain, "input": Rate(Decimal(1)), "output": Rate(Decimal(7))}
    assert sheet.modes["batch"]["search"] == Rate(Decimal(10)), "searches have no tiers"
    assert sheet.rates == plain


@pytest.mark.parametrize(
    "text",
    [
        '[[amendment]]\nmodels = ["a/*"]\nsource = "s"\nas_of = "d"\nfactor = 2',
        '[[amendment]]\nmodels = ["a/*"]\nas_of = "d"',
        '[[amendment]]\nmodels = ["a/*"]\nsource = "s"\nas_of = "d"\nprices = { inputs = 1 }',
    ],
)
def test_a_mistake_in_the_file_is_seen_at_once(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        parse_amendments(text)


def test_long_prompts_are_added_where_a_tier_has_none() -> None:
    (one,) = parse_amendments(
        '[[amendment]]\nmodels = ["a/b"]\nsource = "s"\nas_of = "d"\n'
        "long = { above = 100, prompt = 2, output = 1.5 }"
    )
    rates = {"input": Rate(Decimal(1)), "output": Rate(Decimal(2)), "search": Rate(Decimal(3))}
    tiered = {"input": Rate(Decimal(1), ((50, Decimal(9)),))}
    sheet = one.of(Sheet(tiered, modes={"flex": rates}))
    assert sheet.rates == tiered
    assert sheet.modes["flex"]["input"].tiers == ((100, Decimal(2)),)
    assert sheet.modes["flex"]["output"].tiers == ((100, Decimal(3)),)
    assert sheet.modes["flex"]["search"].tiers == ()
    assert amended(Sheet(rates), "nobody/nothing") == Sheet(rates)


def test_grounding_is_charged_once_a_prompt_where_its_page_says_so() -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "web_searches": 3}
    once, each = (
        PRICER.price(f"gemini/{name}") for name in ("gemini-2.5-flash", "gemini-3-flash-preview")
    )
    assert once.cost(usage) == 3_500
    assert each.cost(usage) == 3 * 1_400
    assert Price.unpacked(once.packed()).cost(usage) == once.cost(usage)
    older = once.packed()
    older["p"] = older["p"][:6]
    assert Price.unpacked(older).cost(usage) == 3 * 3_500, "as it was held for"


def test_inference_in_the_united_states_alone_costs_a_tenth_more() -> None:
    """All kinds of tokens, in any service tier; searches cost what they cost."""
    price = PRICER.price("anthropic/claude-opus-4-6")
    tokens = {
        "input_tokens": 1000,
        "cache_read_input_tokens": 4000,
        "cache_creation_input_tokens": 800,
        "output_tokens": 600,
    }
    plain = price.cost(tokens)
    # 1000 at 5, 4000 at 0.5, 800 at 6.25 and 600 at 25 dollars a million: 0.027 dollars.
    assert plain == 2_700
    for geo in ("us", "US"):
        assert price.cost({**tokens, "inference_geo": geo}) == 2_970
    for geo in ("global", "not_available", "", None, 7):
        assert price.cost({**tokens, "inference_geo": geo}) == plain
    batch = {**tokens, "service_tier": "batch"}
    assert price.cost({**batch, "inference_geo": "us"}) == 1_485
    searched = {**tokens, "inference_geo": "us", "server_tool_use": {"web_search_requests": 2}}
    assert price.cost(searched) == 2_970 + 2_000
    again = Price.unpacked(price.packed())
    assert again.cost({**tokens, "inference_geo": "us"}) == 2_970
    assert again.metadata({**tokens, "inference_geo": "us"})["price_geo"] == "us"
    assert again.metadata({**tokens, "inference_geo": "mars"})["unpriced_geo"] == "mars"
    assert price.cost({**tokens, "inference_geo": "mars"}) == plain
    assert "price_geo" not in again.metadata(tokens)
    older = price.packed()
    older["p"] = older["p"][:8]
    assert Price.unpacked(older).cost({**tokens, "inference_geo": "us"}) == plain, "as it was held"
    for geos in ({"us": [0, 1]}, {"us": [1.1, 1]}, {"us": 2}, ["us"]):
        bad = price.packed()
        bad["p"][8] = geos
        with pytest.raises(ValueError, match="not a packed price"):
            Price.unpacked(bad)


@pytest.mark.parametrize(
    "name",
    ["vertex_ai/claude-opus-4-6", "azure/claude-opus-4-6", "aws/anthropic.claude-opus-4-6-v1"],
)
def test_other_hosts_have_no_such_choice(name: str) -> None:
    price = PRICER.price(name)
    usage = {"input_tokens": 1000, "output_tokens": 600}
    assert price.cost({**usage, "inference_geo": "us"}) == price.cost(usage)


@pytest.mark.parametrize(
    ("moment", "dollars"),
    [
        (datetime(2026, 11, 25, 2, 30, tzinfo=UTC), "0.3"),  # A Wednesday's peak.
        (datetime(2026, 11, 25, 5, 0, tzinfo=UTC), "0.15"),
        (datetime(2026, 11, 27, 9, 59, tzinfo=UTC), "0.3"),
        (datetime(2026, 11, 28, 2, 30, tzinfo=UTC), "0.15"),  # A Saturday, at the same hour.
        (datetime(2026, 11, 29, 7, 0, tzinfo=UTC), "0.15"),
    ],
)
def test_peaks_of_deepseek_are_those_of_working_days(moment: datetime, dollars: str) -> None:
    _, listed = PRICER.sheet("deepseek-flash")
    assert listed.sheets[listed.place(moment)][1].rates["input"].base == Decimal(dollars)
