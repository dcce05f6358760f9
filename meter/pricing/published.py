"""The published prices that the package `genai-prices` gathers, as sheets.

The package is imported when the first list is made: without it, an operator's own file and the
policy for unknown models are all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

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
    "web_searches_kcount": "search",
    "audio_hours": "audio_hour",
    "input_audio_hours": "audio_hour",
}
_THOUSANDTHS: Final[Mapping[str, str]] = {"requests_kcount": "request"}

# Asked in this order for a model whose name alone does not say who makes it.
_MAKERS: Final = ("openai", "anthropic", "google", "mistral", "cohere", "deepseek", "x-ai")

IsActive = Callable[[datetime], bool]


@dataclass(frozen=True, slots=True)
class Listed:
    """A model of a list: its sheets, each with the time at which it holds; the last that does
    counts.
    """

    provider: str
    source: str
    version: str
    sheets: tuple[tuple[IsActive | None, Sheet], ...]

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


class PublishedPrices:
    """The price list of the package, by model. Raises ModuleNotFoundError without it."""

    def __init__(self) -> None:
        import genai_prices
        from genai_prices import data_snapshot

        self._providers = {one.id: one for one in data_snapshot.get_snapshot().providers}
        self.version = genai_prices.__version__

    def find(self, model: str, provider: str | None) -> Listed | None:
        """The model's prices at this provider, or at the one that its name points to.

        The list's own cache of names has no bound, so it is searched directly.
        """
        reference = model.lower()
        everybody = list(self._providers.values())
        for one in self._candidates(reference, provider):
            name = reference.removeprefix(f"{one.id}/")
            found = one.find_model(name, all_providers=everybody)
            if found is None:
                continue
            listed = self._listed(one, found)
            if listed is not None:
                return listed
        return None

    def _candidates(self, reference: str, provider: str | None) -> list[Provider]:
        if provider is not None:
            return [self._providers[provider]] if provider in self._providers else []
        prefix = reference.partition("/")[0]
        if prefix != reference and prefix in self._providers:
            return [self._providers[prefix]]
        named = [
            one
            for one in self._providers.values()
            if one.model_match is not None and one.model_match.is_match(reference)
        ]
        return named + [self._providers[one] for one in _MAKERS if one in self._providers]

    def _listed(self, provider: Provider, model: ModelInfo) -> Listed | None:
        from genai_prices.types import ModelPrice

        prices = model.prices
        conditional = (
            [(None, prices)]
            if isinstance(prices, ModelPrice)
            else [(one.constraint, one.prices) for one in prices]
        )
        sheets = tuple(
            (None if when is None else when.active, _sheet(model, price))
            for when, price in conditional
        )
        if not sheets or not all(sheet.is_price for _, sheet in sheets):
            return None
        return Listed(provider.id, "genai-prices", f"genai-prices {self.version}", sheets)


def _sheet(model: ModelInfo, price: ModelPrice) -> Sheet:
    rates = _rates(price)
    modes: dict[str, Rates] = {}
    for variant in model.price_variants or ():
        mode = _mode(variant.when)
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


def _mode(when: Mapping[str, str]) -> str | None:
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
