"""Corrections of the published list: each has its source, reaches every name of its model, and
fails here when the list of the package has caught up, so that it goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from taximeter.meter.pricing import Pricer, UnpricedModel
from taximeter.meter.pricing.file_reader import Entry
from taximeter.meter.pricing.identity import Identity, identify
from taximeter.meter.pricing.lists import corrections
from taximeter.meter.pricing.price_file import PriceFileError, parse_price_file
from taximeter.meter.pricing.published import PublishedPrices
from taximeter.meter.pricing.sheet import Rate, Sheet

PRICER = Pricer()
PUBLISHED = PublishedPrices()
ALSO_AT = {"openai": ("azure",), "anthropic": ("azure",)}


def _mended(entry: Entry, listed: Sheet) -> bool:
    """Whether the list, with its amendments, says all that the correction does."""
    return all(listed.rates.get(kind) == rate for kind, rate in entry.sheet.rates.items())


@pytest.mark.parametrize("name", corrections().models)
def test_each_is_still_needed(name: str) -> None:
    entry = corrections().models[name]
    assert entry.as_of <= datetime.now(UTC).date().isoformat()
    listed = PUBLISHED.find(identify(name, entry.provider))
    if listed is not None:
        sheet = listed.sheets[listed.place()][1]
        assert not _mended(entry, sheet), (
            f"the list has the price of {name} now: take it out of corrections.toml"
        )


def test_a_list_that_was_mended_is_noticed() -> None:
    for name, entry in corrections().models.items():
        kind, rate = next(iter(entry.sheet.rates.items()))
        also = replace(entry.sheet, rates={**entry.sheet.rates, "output_image": rate})
        assert _mended(entry, entry.sheet), name
        assert _mended(entry, also), "what the list has besides is no reason to keep it"
        other = replace(entry.sheet, rates={**entry.sheet.rates, kind: Rate(rate.base + 1)})
        assert not _mended(entry, other), name


def _words(clause: Any) -> Iterator[str]:
    for field in ("equals", "starts_with", "contains", "ends_with"):
        if isinstance(found := getattr(clause, field, None), str):
            yield found.lower()
    for one in (*(getattr(clause, "or_", ()) or ()), *(getattr(clause, "and_", ()) or ())):
        yield from _words(one)


def test_they_reach_every_name_that_the_list_has_for_a_model() -> None:
    """At its maker, and at Azure, which has no list of its own for these."""
    reached = []
    for provider in PUBLISHED.providers():
        for model in provider.models:
            by_id = corrections().find_alias(Identity(provider.id, model.id.lower()))
            for name in {model.id.lower(), *_words(model.match)}:
                entry = by_id or corrections().find_alias(Identity(provider.id, name))
                found = PUBLISHED.resolve(Identity(provider.id, name))
                if entry is None or found is None or found[1] is not model:
                    continue
                for host in (provider.id, *ALSO_AT.get(provider.id, ())):
                    try:
                        price = PRICER.price(name, provider=host)
                    except UnpricedModel:  # That host does not sell it.
                        continue
                    assert price.source == "corrections", (host, name)
                    reached.append(f"{host}/{name}")
    assert len(reached) > 30, reached
    for name, entry in corrections().models.items():
        assert PRICER.price(name, provider=entry.provider).source == "corrections", name


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ('as_of = "2026-11"', "source must be given, as the https:// address of a page"),
        ('source = "a page", as_of = "2026-11"', "source must be given"),
        ('source = "https://a.example"', "as_of must be given, as a day or month such as 2026-11"),
        ('source = "https://a.example", as_of = "November"', "as_of must be given"),
        ('source = "https://a.example", as_of = "2026-13"', "as_of must be given"),
    ],
)
def test_one_without_its_source_is_refused(fields: str, problem: str) -> None:
    text = f'[models]\n"gpt-9" = {{ input = 1, {fields} }}\n'
    with pytest.raises(PriceFileError) as refusal:
        parse_price_file(text.encode(), "corrections.toml", sourced=True)
    assert f'corrections.toml, line 2: model "gpt-9" {problem}' in str(refusal.value)
    with pytest.raises(PriceFileError, match="is no field"):
        parse_price_file(text.encode(), "prices.toml")
