"""Price lists that were taken over: how they are kept, when they begin, and how old they are."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import inf
from pathlib import Path

import pytest
from genai_prices import __version__
from support.waiting import eventually

from taximeter.api.prices.changes import Changes, Step, changes_between, problems_of
from taximeter.api.prices.editions import Editions
from taximeter.api.prices.followed import PriceAge, age_alarm, following
from taximeter.meter.pricing import Price, PriceFileError, Pricer
from taximeter.meter.pricing.editions import (
    Edition,
    PricesNotKnown,
    digest_of,
    edition_at,
    packed,
    read_edition,
    unpacked,
)
from taximeter.meter.pricing.lists import CHECKED_PACKAGE, PriceLists
from taximeter.meter.pricing.package_list import list_text, read_list
from taximeter.meter.pricing.published import PublishedPrices

MODEL = "gpt-4o-mini"
USAGE = {"prompt_tokens": 10**6, "completion_tokens": 0}
TODAY = date(2026, 11, 30)
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def edition(
    number: int, starts_at: float, text: str, kind: str = "file", dated: date = TODAY
) -> Edition:
    content = text.encode()
    prices = read_edition(kind, f"edition-{number}", content)
    return Edition(number, f"edition-{number}", dated, starts_at, digest_of(content), prices)


def priced(dollars: str, model: str = MODEL) -> str:
    return f'[models]\n"{model}" = {{ input = {dollars} }}\n'


def test_the_packages_list_is_kept_whole() -> None:
    """Every model, in every tier and at every time of day, costs what it did before."""
    content = list_text(PublishedPrices().providers())
    kept = packed(content)
    assert len(kept) < 300_000
    again = unpacked(kept, digest_of(content))
    installed, read = PriceLists(None), PriceLists(None)
    read.edition = Edition(
        1, "x", TODAY, 0.0, digest_of(content), read_edition("package", "x", again)
    )
    found = changes_between(installed, read, NOON)
    assert (found.added, found.removed, found.changed) == ({}, {}, {})
    assert found.same > 1000
    assert list_text(read_list(content)) == content


@pytest.mark.parametrize("content", [b"{}", b"[]", b"[1]", b'[{"id": "x"}]', b"[", b"\xff"])
def test_what_is_no_list_is_refused(content: bytes) -> None:
    with pytest.raises(PriceFileError, match="no list of genai-prices"):
        read_list(content)


def test_a_list_that_is_damaged_is_not_used() -> None:
    kept = packed(b"a list")
    for wrong in (b"", kept[:3], packed(b"another"), b"no zlib at all"):
        with pytest.raises(PriceFileError, match="damaged"):
            unpacked(wrong, digest_of(b"a list"))


def test_an_edition_is_in_force_from_its_moment_on() -> None:
    one, two, three = (edition(n, at, priced("1")) for n, at in ((1, 10.0), (2, 20.0), (3, 20.0)))
    both: Sequence[Edition] = (two, one, three)
    assert edition_at(both, 9.99) == (None, 10.0)
    assert edition_at(both, 10.0) == (one, 20.0)
    assert edition_at(both, 20.0) == (three, inf), "of two at one moment the later word counts"
    assert edition_at((), 20.0) == (None, inf)


def test_prices_change_at_the_moment_without_a_call() -> None:
    clock = [0.0]
    pricer = Pricer(now=lambda: clock[0])
    installed = pricer.price(MODEL)
    pricer.follow([edition(1, 100.0, priced("7")), edition(2, 200.0, priced("9"))])
    reserved = pricer.price(MODEL)
    assert reserved is installed
    for now, cost, version in ((100.0, 700_000, "list 1, edition-1"), (200.0, 900_000, "list 2")):
        clock[0] = now - 0.001
        assert pricer.price(MODEL).cost(USAGE) != cost
        clock[0] = now
        price = pricer.price(MODEL)
        assert price.cost(USAGE) == cost
        assert price.version.startswith(version)
        assert price.metadata()["price_dated"] == "2026-11-30"
        assert (price.source, price.identity) == ("list", f"openai/{MODEL}")
        # What the list does not name costs what it did; corrections hold for that.
        assert pricer.price("gpt-4o").source == "genai-prices"
        assert pricer.price("deepseek-chat").source == "corrections"
    # The request that was reserved before keeps its price, also where it travels with its hold.
    assert Price.unpacked(json.loads(json.dumps(reserved.packed()))).cost(USAGE) == 15_000


def test_the_operators_own_file_goes_before_every_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(priced("3"))
    pricer = Pricer(price_file=path, now=lambda: 1.0)
    pricer.follow([edition(1, 0.0, priced("7"))])
    assert pricer.price(f"openai/{MODEL}").cost(USAGE) == 300_000
    assert "price_dated" not in pricer.price(MODEL).metadata(), "nobody says of which day it is"


def test_nothing_is_priced_before_it_is_known_by_which_list() -> None:
    pricer = Pricer(waits_for_editions=True)
    for _ in range(2):
        with pytest.raises(PricesNotKnown):
            pricer.price(MODEL)
    with pytest.raises(PricesNotKnown):
        pricer.sheet(MODEL)
    pricer.follow([])
    assert pricer.price(MODEL).source == "genai-prices"


def test_a_price_says_of_which_day_it_is_within_bounds() -> None:
    price = Pricer().price(MODEL)
    assert price.metadata()["price_dated"] == price.dated
    kept = json.loads(json.dumps(price.packed()))
    assert Price.unpacked(kept) == Price.unpacked(price.packed())
    assert Price.unpacked(kept).dated == price.dated
    long = Pricer(unknown_model="default").price("m" * 5000, provider="p" * 5000)
    assert len(json.dumps(long.metadata())) < 1000


def test_the_installed_package_is_the_one_that_the_corrections_were_compared_with() -> None:
    """If this fails, compare them with the providers' pages again, set their date, then this."""
    assert f"genai-prices {__version__}" == CHECKED_PACKAGE
    assert Pricer().list_dated is not None


@pytest.mark.parametrize(
    ("dated", "word"),
    [
        (TODAY, None),
        (TODAY - timedelta(days=30), None),
        (TODAY - timedelta(days=31), "old"),
        (date.min, "old"),
        (TODAY + timedelta(days=1), None),
        (TODAY + timedelta(days=2), "age_unknown"),
        (date.max, "age_unknown"),
        (None, "age_unknown"),
    ],
)
def test_no_day_silences_the_alarm(dated: date | None, word: str | None) -> None:
    found = age_alarm("the list", dated, 30, TODAY)
    assert (None if found is None else found.word) == word
    assert found is None or "the list" in found.text


def test_the_alarm_is_in_the_log_once_a_day(caplog: pytest.LogCaptureFixture) -> None:
    pricer = Pricer(now=lambda: 1.0)
    pricer.follow([edition(1, 0.0, priced("7"), dated=date(2020, 1, 1))])
    age = PriceAge(pricer, 30)
    assert age.word() == "old"
    with caplog.at_level(logging.ERROR, "taximeter.prices"):
        for day in (TODAY, TODAY, TODAY + timedelta(days=1)):
            age.log(day)
    assert [one.getMessage()[:40] for one in caplog.records] == [
        f"prices: the prices are {days} days old, of" for days in (2525, 2526)
    ]
    pricer.follow([edition(2, 0.0, priced("7"), dated=datetime.now(UTC).date())])
    assert age.word() is None


def lists_of(text: str) -> PriceLists:
    found = PriceLists(None)
    found.edition = edition(1, 0.0, text)
    return found


def test_old_and_new_stand_side_by_side() -> None:
    old = lists_of(
        '[models]\n"house/a" = { input = 1, output = 2 }\n"house/b" = { input = 1 }\n'
        '"house/c" = { input = 1, tiers = [{ above = 1000, input = 2 }] }\n'
    )
    new = lists_of(
        '[models]\n"house/a" = { input = 1, output = 3 }\n"house/d" = { input = 4 }\n'
        '"house/c" = { input = 1, tiers = [{ above = 1000, input = 5 }],'
        " service_tiers = { flex = { input = 0.5 } } }\n"
    )
    found = changes_between(old, new, NOON)
    assert found.added == {"house/d": {"input": Decimal(4)}}
    assert found.removed == {"house/b": {"input": Decimal(1)}}
    assert found.changed["house/a"] == [Step("output", Decimal(2), Decimal(3))]
    assert found.changed["house/a"][0].factor == Decimal("1.5")
    assert Step("input above 1000", Decimal(2), Decimal(5)) in found.changed["house/c"]
    assert Step("flex input", None, Decimal("0.5")) in found.changed["house/c"]
    assert found.same > 1000
    assert found.paid == {"house/a", "house/c"}


def problems(changes: Changes, dated: date = TODAY, in_force: date | None = TODAY) -> list[str]:
    found = problems_of(changes, dated=dated, in_force_dated=in_force, is_same=False)
    return [f"{one.check} {one.model}".strip() for one in found]


def test_what_is_obviously_broken_is_found() -> None:
    one, ten, zero = Decimal(1), Decimal(10), Decimal(0)

    def of(*steps: Step, removed: int = 0, same: int = 100) -> Changes:
        return Changes(
            removed={f"r{n}": {} for n in range(removed)}, changed={"m": list(steps)}, same=same
        )

    assert problems(of(Step("input", one, ten), Step("output", ten, one))) == []
    assert problems(of(Step("input", one, Decimal("10.01")))) == ["factor m"]
    assert problems(of(Step("input", one, Decimal("0.0000001")))) == ["factor m"], "per token"
    assert problems(of(Step("input", one, zero), Step("output", one, zero))) == ["free m"]
    assert problems(of(Step("cache_read", one, None))) == [], "then it costs what input does"
    kept = of(Step("output", None, zero), Step("batch input", one, None))
    assert problems(kept) == ["free m"]
    kept.paid.add("m")
    assert problems(kept) == [], "its prompt costs what it did"
    half = of(Step("output", ten, zero))
    half.paid.add("m")
    assert problems(half) == ["factor m"], "a price of nothing is less than a tenth"
    assert problems(of(removed=11, same=89)) == ["removed"]
    assert problems(of(removed=10, same=89)) == []
    assert problems(of(), dated=TODAY - timedelta(days=1)) == ["older"]
    assert problems(of(), in_force=None) == []
    found = problems_of(of(), dated=TODAY, in_force_dated=None, is_same=True)
    assert [one.check for one in found] == ["same"]


async def test_a_damaged_file_ends_a_start_and_is_passed_over_later(tmp_path: Path) -> None:
    path, made = tmp_path / "lists.json", tmp_path / "new"
    path.write_text('{"lists": [{"number": 1}]}')
    pricer = Pricer(waits_for_editions=True)
    with pytest.raises(PriceFileError, match=r"lists.json is none of what"):
        async with following(pricer, 3600, Editions(None, path)):
            pass
    path.write_text('{"lists": []}')
    async with following(pricer, 0.01, Editions(None, path)):
        assert pricer.price(MODEL).cost(USAGE) == 15_000
        made.write_text("{")
        made.replace(path)
        content = priced("7").encode()
        good = {
            "number": 1,
            "kind": "file",
            "version": "seven",
            "digest": digest_of(content),
            "dated": "2026-11-30",
            "starts_at": "2026-11-30T00:00:00+00:00",
            "content": b64encode(packed(content)).decode(),
        }
        made.write_text(json.dumps({"lists": [good]}))
        made.replace(path)

        async def is_read() -> bool:
            return pricer.price(MODEL).cost(USAGE) == 700_000

        await eventually(is_read, what="the good file is read")
