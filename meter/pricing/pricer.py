"""Prices requests: what the lists say of a model, or the policy for models that none of them has,
times what the settings say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Final, Literal

from taximeter.meter.pricing.ceilings import output_ceiling
from taximeter.meter.pricing.editions import Edition, PricesNotKnown, edition_at
from taximeter.meter.pricing.identity import identify
from taximeter.meter.pricing.lists import PriceLists
from taximeter.meter.pricing.price import Price, UnpricedModel
from taximeter.meter.pricing.published import Listed, unpriced_region
from taximeter.meter.pricing.sheet import Rate, Sheet
from taximeter.meter.wire.bounded_cache import BoundedCache
from taximeter.meter.wire.credits import MILLICREDITS_PER_CREDIT

UnknownModelPolicy = Literal["reject", "default", "free"]

MODELS_REMEMBERED_MAX: Final = 4096
_Remembered = BoundedCache[tuple[str | None, ...], tuple[Listed, list[Price | None]]]


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Dollars per million tokens, for models that no price list knows."""

    input_usd: Decimal = Decimal("10")
    output_usd: Decimal = Decimal("30")


class Pricer:
    """Prices requests in the way the settings say.

    What is charged is the list price, times credits_per_dollar, times the markup of the plan (or
    `markup` for a plan that has none of its own), times the factor of the power level (or 1).
    `unknown_model` says what happens to a model without a price: `reject` raises UnpricedModel,
    `default` uses `default_price`, `free` costs nothing and is still a charge, of 0. `price_file`
    is the operator's own; PriceFileError is raised when it cannot be used. With
    `waits_for_editions` nothing is priced until `follow` was called: by a list that is in force no
    more, a charge would be wrong. `now` is the clock that editions begin by, in seconds since 1970.

    Does no I/O after it was made, but for `reload`. A price is found with one look into a
    dictionary when the model was asked for before.
    """

    def __init__(
        self,
        *,
        credits_per_dollar: Decimal = Decimal(100),
        markup: Decimal = Decimal(1),
        markup_by_plan: Mapping[str, Decimal] | None = None,
        markup_by_power_level: Mapping[str, Decimal] | None = None,
        unknown_model: UnknownModelPolicy = "reject",
        default_price: TokenPrice | None = None,
        provider_id: str | None = None,
        price_file: Path | None = None,
        waits_for_editions: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        if not credits_per_dollar.is_finite() or credits_per_dollar <= 0:
            raise ValueError("credits_per_dollar must be a finite number above zero")
        self._by_plan = dict(markup_by_plan or {})
        self._by_power_level = dict(markup_by_power_level or {})
        for factor in (markup, *self._by_plan.values(), *self._by_power_level.values()):
            if not factor.is_finite() or factor < 0:
                raise ValueError("markup must be a finite number of at least zero")
        self._credits_per_dollar = credits_per_dollar
        self._markup = markup
        self._unknown_model = unknown_model
        self._default_price = default_price or TokenPrice()
        self._provider_id = provider_id
        self._lists = PriceLists(price_file)
        self._prices = _Remembered(MODELS_REMEMBERED_MAX)
        self._day = _today()
        self._now = now
        self._editions: Sequence[Edition] = ()
        self._knows_editions = not waits_for_editions
        # When the next edition begins: at once while none may be used.
        self._until = -inf if waits_for_editions else inf

    def price(
        self,
        model: str,
        *,
        provider: str | None = None,
        plan: str | None = None,
        power_level: str | None = None,
    ) -> Price:
        """What this model costs from now on, for one request: keep it from the reserve to the
        commit, and a price that changes meanwhile changes nothing.

        `provider` asks for the price at that provider, under any name that gateways have for it;
        without, the model's name decides. Raises UnpricedModel, PricesNotKnown.
        """
        if self._now() >= self._until:
            self._turn()
        provider = provider or self._provider_id
        # Callers choose these: only those that make a difference are told apart.
        plan = plan if plan in self._by_plan else None
        power_level = power_level if power_level in self._by_power_level else None
        key = (model, provider, plan, power_level)
        remembered = self._prices  # A reload, in another thread, puts a new one in its place.
        known = remembered.get(key)
        if known is None:
            listed = self._look_up(model, provider)
            known = (listed, [None] * len(listed.sheets))
            remembered.keep(key, known)
        else:
            remembered.move_to_end(key)
        listed, prices = known
        place = listed.place()
        price = prices[place]
        if price is None:
            price = prices[place] = self._make(listed, place, model, plan, power_level)
        return price

    def sheet(self, model: str, *, provider: str | None = None) -> tuple[Sheet, Listed]:
        """The published price before any markup, and where it is from. Raises UnpricedModel,
        PricesNotKnown.
        """
        if self._now() >= self._until:
            self._turn()
        listed = self._look_up(model, provider or self._provider_id)
        return listed.sheets[listed.place()][1], listed

    def credits_of_a_dollar(
        self, plan: str | None = None, power_level: str | None = None
    ) -> Decimal:
        """What one dollar of a list price is charged as."""
        return self._credits_per_dollar * self._factor(plan) * self._level(power_level)

    @property
    def knows_editions(self) -> bool:
        """Whether it is known which list is in force, so that prices can be named."""
        return self._knows_editions

    @property
    def list_version(self) -> str:
        """Which list is in force, besides the operator's own file."""
        return self._lists.version

    @property
    def list_dated(self) -> date | None:
        """The day of which its prices are; None where that is not known."""
        return self._lists.dated

    @property
    def edition(self) -> Edition | None:
        """The edition that is in force; None for what the installed package has."""
        return self._lists.edition

    def names(self) -> Iterable[str]:
        """Every model of the list in force, as host/name."""
        return self._lists.names()

    def own_names(self) -> Iterable[str]:
        """Every model that the operator's own file names, as it does."""
        return self._lists.own_names()

    def knows_host(self, host: str) -> bool:
        """Whether a list or the operator's own file has prices of this host, by its id."""
        return host in self._lists.hosts()

    def hosts_near(self, host: str) -> list[str]:
        """Hosts with prices that are called nearly so."""
        return get_close_matches(host, sorted(self._lists.hosts()), n=3, cutoff=0.5)

    def follow(self, editions: Sequence[Edition]) -> None:
        """These are the editions now, past ones and those to come: each is in force from its moment
        on, without another call. A request that was reserved before keeps its price.
        """
        self._editions = tuple(editions)
        self._knows_editions = True
        self._turn()

    def _turn(self) -> None:
        if not self._knows_editions:
            raise PricesNotKnown
        edition, self._until = edition_at(self._editions, self._now())
        if edition is not self._lists.edition:
            self._lists.edition = edition
            self._prices = _Remembered(MODELS_REMEMBERED_MAX)

    @property
    def file_version(self) -> str:
        """Which operator's file is in use; empty without one."""
        return self._lists.file_version

    def reload(self) -> bool:
        """Read the operator's file again if it has changed; returns whether it was read.

        Raises PriceFileError when it cannot be used: the prices stay as they were, and the same
        file is not read again. Blocks for as long as that takes.
        """
        if self._day != _today():
            self._day = _today()  # Some published prices begin on a day.
            self._prices = _Remembered(MODELS_REMEMBERED_MAX)
        if not self._lists.reload():
            return False
        self._prices = _Remembered(MODELS_REMEMBERED_MAX)
        return True

    def _look_up(self, model: str, provider: str | None) -> Listed:
        of = identify(model, provider)
        found = self._lists.find(model, of, provider)
        if found is not None:
            return found
        if self._unknown_model == "reject":
            raise UnpricedModel(model, self._lists.names_near(of), region=unpriced_region(of))
        if self._unknown_model == "free":
            return Listed("", "free", "no price, free", ((None, Sheet({})),), str(of))
        price = self._default_price
        rates = {"input": Rate(price.input_usd), "output": Rate(price.output_usd)}
        version = f"default {price.input_usd} in {price.output_usd} out"
        return Listed("", "default", version, ((None, Sheet(rates)),), str(of))

    def _make(
        self, listed: Listed, place: int, model: str, plan: str | None, power_level: str | None
    ) -> Price:
        worth = self.credits_of_a_dollar(plan, power_level) * MILLICREDITS_PER_CREDIT
        return Price.of(
            listed.sheets[place][1],
            worth,
            model=model,
            provider=listed.provider,
            identity=listed.identity,
            dated=listed.dated,
            source=listed.source,
            version=self._version(listed.version, plan, power_level),
            max_output=output_ceiling(model),
        )

    def _factor(self, plan: str | None) -> Decimal:
        return self._by_plan.get(plan or "", self._markup)

    def _level(self, power_level: str | None) -> Decimal:
        return self._by_power_level.get(power_level or "", Decimal(1))

    def _version(self, listed: str, plan: str | None, power_level: str | None) -> str:
        words = [listed, f"{self._credits_per_dollar} credits a dollar"]
        words.append(f"markup {self._factor(plan)}" + (f" of {plan}" if plan else ""))
        if power_level:
            words.append(f"{power_level} {self._level(power_level)}")
        return ", ".join(words)


def _today() -> date:
    return datetime.now(UTC).date()
