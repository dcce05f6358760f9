"""Reads the published prices that the package `genai-prices` gathers, as sheets.

The package is imported when the first list is made: without it, an operator's own file and the
policy for unknown models are all there is.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from taximeter.meter.pricing.amendments import amended
from taximeter.meter.pricing.identity import Identity
from taximeter.meter.pricing.matching import Shelf
from taximeter.meter.pricing.sheet import Rate, Rates, Sheet

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

# Names of the package -> our kind.
_KIND_OF: Final[Mapping[str, str]] = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_5m_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "input_audio",
    "cache_audio_read_mtok": "cache_read_audio",
    "output_audio_mtok": "output_audio",
    "input_image_mtok": "input_image",
    "cache_image_read_mtok": "cache_read_image",
    "output_image_mtok": "output_image",
    "input_video_mtok": "input_video",
    "output_reasoning_mtok": "reasoning",
    "output_citation_mtok": "citation",
    "web_searches_kcount": "search",
    "audio_hours": "audio_hour",
    "input_audio_hours": "audio_hour",
}
_THOUSANDTHS: Final[Mapping[str, str]] = {"requests_kcount": "request"}

# Asked in this order for a model whose name alone does not say who makes it.
_MAKERS: Final = ("openai", "anthropic", "google", "mistral", "cohere", "deepseek", "x-ai")

# Hosts that sell what these makers make, for the maker's price, as their pages say.
_SOLD_ALIKE: Final[Mapping[str, tuple[str, ...]]] = {
    "azure": ("openai", "anthropic"),
    "vertex": ("google", "anthropic"),
}
# What a model costs there, of what it costs elsewhere at this host. Azure's data zones add a tenth,
# and Europe's a fifth from GPT-6 on; Bedrock's list prices are those of these two regions.
_ZONES: Final[Mapping[tuple[str, str], Decimal]] = {
    ("azure", "eu"): Decimal("1.1"),
    ("azure", "us"): Decimal("1.1"),
    ("aws", "us-east-1"): Decimal(1),
    ("aws", "us-west-2"): Decimal(1),
}
_US_GOV: Final = "us-gov."
"""How Bedrock's names of models begin in the regions of that government."""
_DEARER: Final = (("azure", "eu", "gpt-6", Decimal("1.2")),)
# Azure prints a thousand tokens of these with six decimals: its invoices have the rounded price.
_PRINTED: Final = re.compile(r"gpt-(?:3|4|5-codex)|o[134]|codex|text-embedding")
# Models whose weights are for all, which their maker sells to nobody: the price is their host's.
_NOT_SOLD: Final = frozenset((("openai", "gpt-oss-120b"), ("openai", "gpt-oss-20b")))
FRIDAY: Final = 5
NEAR_LENGTH_MIN: Final = 3
"""Shorter common beginnings say nothing."""
NEAR_NAMES_MAX: Final = 3

Found: TypeAlias = "tuple[Provider, ModelInfo]"
"""Who sells a model of the list, and the model."""

IsActive = Callable[[datetime], bool]


@dataclass(frozen=True, slots=True)
class Listed:
    """A model of a list: its sheets, each with the time at which it holds; the last that does
    counts. `identity` is the model that was meant: host, region, name. `dated`: the day of which
    the list's prices are, empty where nobody says.
    """

    provider: str
    source: str
    version: str
    sheets: tuple[tuple[IsActive | None, Sheet], ...]
    identity: str
    dated: str = ""

    def place(self, now: datetime | None = None) -> int:
        """Which sheet holds now. Costs nothing where there is only one."""
        last = len(self.sheets) - 1
        if last == 0:
            return 0
        now = now or datetime.now(UTC)
        for place in range(last, 0, -1):
            is_active = self.sheets[place][0]
            if is_active is None or is_active(now):
                return place
        return 0


def _neighbours(names: Sequence[str], name: str) -> Sequence[str]:
    """Those of sorted names that begin most as this one does."""
    place = bisect(names, name)
    return names[max(place - NEAR_NAMES_MAX, 0) : place + NEAR_NAMES_MAX]


def _common_length(one: str, other: str) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def unpriced_region(of: Identity) -> str:
    """The region in which a model costs another price that the list does not have, else empty."""
    if zone_factor(of) is not None:
        return ""
    return of.region or _US_GOV.rstrip(".")


def zone_factor(of: Identity) -> Decimal | None:
    """What the price of the list is multiplied with where a model runs; None where it costs another
    price that the list does not have.
    """
    if of.provider == "aws" and of.model.startswith(_US_GOV):
        return None
    for host, region, beginning, factor in _DEARER:
        if (of.provider, of.region) == (host, region) and of.model.startswith(beginning):
            return factor
    return _ZONES.get((of.provider, of.region)) if of.region else Decimal(1)


# Hosts whose dearer hours are those of working days, which the list does not say.
_PEAKS_OF_WORKING_DAYS: Final = frozenset(("deepseek",))


def _active(seller: str, when: Any) -> IsActive:
    """When a price of the list holds."""
    if seller not in _PEAKS_OF_WORKING_DAYS or type(when).__name__ != "TimeOfDateConstraint":
        return cast(IsActive, when.active)
    # The hours are 9 to 18 of China, so that the day is the same as in UTC.
    return lambda at: at.astimezone(UTC).isoweekday() <= FRIDAY and when.active(at)


def in_its_zone(sheet: Sheet, of: Identity) -> Sheet:
    """What the list has, at the price of the zone in which the model runs."""
    factor = zone_factor(of) or 1
    if factor == 1 or of.provider != "azure" or not _PRINTED.match(of.model):
        return sheet.times(factor)
    return sheet.times(factor, Decimal("0.001"))


class PublishedPrices:
    """A price list of the package, by model: that of `providers`, which is called `version`, or the
    one that is installed. Raises ModuleNotFoundError without the package.
    """

    def __init__(self, providers: Iterable[Provider] | None = None, version: str = "") -> None:
        import genai_prices
        from genai_prices import data_snapshot

        if providers is None:
            providers = data_snapshot.get_snapshot().providers
            version = f"genai-prices {genai_prices.__version__}"
        self._providers = {one.id: one for one in providers}
        self._shelves = {
            one.id: Shelf(model for model in one.models if (one.id, model.id) not in _NOT_SOLD)
            for one in self._providers.values()
        }
        self.version = version

    def providers(self) -> Iterable[Provider]:
        """All of the list, as the package has them."""
        return self._providers.values()

    def find(self, of: Identity) -> Listed | None:
        """What the list says of this model at its host, or at its maker where the name tells no
        host. None where it does not know just this model, and where it would cost another price in
        its region.
        """
        found = self.resolve(of)
        if found is None:
            return None
        return self.listed(of, *found)

    def resolve(self, of: Identity) -> Found | None:
        """The model of the list that is meant, and who sells it."""
        for one in self._sellers(of):
            shelf = self._shelves[one.id]
            # Some hosts begin the names of models with their own, which stands there once.
            model = shelf.find(of.model) or shelf.find(f"{of.provider}/{of.model}")
            if model is not None:
                return one, model
        return None

    def names_near(self, of: Identity, most: int = NEAR_NAMES_MAX) -> list[str]:
        """Names of the list that begin as this one does, the longest common beginning first; of the
        same host where there is one.
        """
        host, asked = self._providers.get(of.provider), of.model.removeprefix(_US_GOV)
        if host is None and not of.provider:
            asked = asked.rpartition("/")[2]  # Behind a host that nobody knows.
        sellers = [host] if host is not None else self._sellers(of)
        scored = {
            (-common, len(name), f"{one.id}/{name}")
            for one in sellers or self._providers.values()
            for name in _neighbours(self._shelves[one.id].names, asked)
            if (common := _common_length(name, asked)) >= NEAR_LENGTH_MIN
        }
        return [name for _, _, name in sorted(scored)[:most]]

    def _sellers(self, of: Identity) -> list[Provider]:
        """Whose prices can be those of this model, in the order in which they are asked."""
        if zone_factor(of) is None:
            return []
        if of.provider:
            ids = (of.provider, *_SOLD_ALIKE.get(of.provider, ()))
        elif "/" in of.model:
            return []  # Somebody sells it whom nobody knows here: no maker's price is theirs.
        else:
            named = (
                one.id
                for one in self._providers.values()
                if one.model_match is not None and one.model_match.is_match(of.model)
            )
            ids = (*named, *_MAKERS)
        return [self._providers[one] for one in ids if one in self._providers]

    def listed(self, of: Identity, seller: Provider, model: ModelInfo) -> Listed | None:
        """The price of a model of the list, for who was asked for."""
        from genai_prices.types import ModelPrice

        prices = model.prices
        conditional = (
            [(None, prices)]
            if isinstance(prices, ModelPrice)
            else [(one.constraint, one.prices) for one in prices]
        )
        sheets = tuple(
            (
                None if when is None else _active(seller.id, when),
                self._sheet(of, seller, model, price),
            )
            for when, price in conditional
        )
        if not sheets or not all(sheet.is_price for _, sheet in sheets):
            return None
        identity = of._replace(provider=of.provider or seller.id)
        version = self.version
        if day := max(sheet.amended for _, sheet in sheets):
            version += f" amended {day}"
        return Listed(identity.provider, "genai-prices", version, sheets, str(identity))

    def _sheet(self, of: Identity, seller: Provider, model: ModelInfo, price: ModelPrice) -> Sheet:
        names = names_of(of, Identity(seller.id, model.id.lower()))
        return in_its_zone(amended(sheet_of(model, price), *names), of)


def names_of(of: Identity, listed: Identity) -> tuple[str, ...]:
    """What a model is called where it was asked for, and where the list has it."""
    host = of.provider or listed.provider
    return (f"{host}/{of.model}", f"{host}/{listed.model}")


def sheet_of(model: ModelInfo, price: ModelPrice) -> Sheet:
    """One published price as a sheet: its rates, and those of the modes that it has besides."""
    rates = _rates(price)
    modes: dict[str, Rates] = {}
    for variant in model.price_variants or ():
        mode = mode_of(variant.when)
        if mode is None or mode in modes:
            continue
        if variant.constraint is not None and not variant.constraint.active(datetime.now(UTC)):
            continue
        own = _rates(variant.prices)
        if own:
            # What a variant does not name costs as usual.
            modes[mode] = {**rates, **own}
    unknown = sorted(
        name
        for name, value in vars(price).items()
        if value is not None and name not in _KIND_OF and name not in _THOUSANDTHS
    )
    return Sheet(
        rates,
        modes=modes,
        context_window=model.context_window,
        not_metered=tuple(unknown),
    )


def mode_of(when: Mapping[str, str]) -> str | None:
    """The service tier that a variant is for; None for what a request to us cannot ask for."""
    if len(when) != 1:
        return None
    [(name, value)] = when.items()
    if name == "service_tier":
        return value
    return {("speed", "fast"): "fast", ("processing", "batch"): "batch"}.get((name, value))


def _rates(price: ModelPrice) -> dict[str, Rate]:
    found: dict[str, Rate] = {}
    for name, value in vars(price).items():
        if value is None:
            continue
        if name in _THOUSANDTHS:
            found[_THOUSANDTHS[name]] = _rate(value, Decimal("0.001"))
        elif name in _KIND_OF:
            found[_KIND_OF[name]] = _rate(value, Decimal(1))
    return found


def _rate(value: Any, factor: Decimal) -> Rate:
    if isinstance(value, Decimal):
        return Rate(value * factor)
    tiers = tuple((tier.start, tier.price * factor) for tier in value.tiers)
    return Rate(value.base * factor, tiers)
