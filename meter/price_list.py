"""What a published price list asks for a request: worked out by the list, or by its rates where
those are a simple sum.

Needs the package `genai-prices`, as `pricing` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

TOKENS_MAX = 10**9
MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Rates:
    """Dollars for a request, and for a million tokens of each kind. `cached` is what a prompt token
    costs more, mostly less, when it was read from the cache.
    """

    fixed: Decimal
    prompt: Decimal
    output: Decimal
    cached: Decimal

    def price(self, prompt_tokens: int, output_tokens: int, cached_tokens: int) -> Decimal:
        per_million = self.prompt * prompt_tokens + self.output * output_tokens
        if cached_tokens:
            per_million += self.cached * cached_tokens
        return self.fixed + per_million / MILLION


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model of the price list. `rates` is None for a price that only the list can work out."""

    provider: Provider
    model: ModelInfo
    rates: Rates | None


def list_price(
    listed: ListedModel,
    usage: Mapping[str, object],
    prompt_tokens: int,
    completion_tokens: int,
    service_tier: str | None,
) -> Decimal:
    """Dollars that the list asks. Details that contradict the totals are ignored."""
    details = _details(usage)
    if listed.rates is not None and service_tier in (None, "auto"):
        cached = details.get("cache_read_tokens", 0)
        if len(details) <= (1 if cached else 0) and cached <= prompt_tokens:
            return listed.rates.price(prompt_tokens, completion_tokens, cached)
    totals = {"input_tokens": prompt_tokens, "output_tokens": completion_tokens}
    context = None if service_tier in (None, "auto") else {"service_tier": str(service_tier)}
    try:
        return calculate(listed.provider, listed.model, {**totals, **details}, context)
    except ValueError:
        return calculate(listed.provider, listed.model, totals, context)


def calculate(
    provider: Provider,
    model: ModelInfo,
    counts: Mapping[str, int],
    context: dict[str, str] | None = None,
) -> Decimal:
    """Let the price list price it. Raises ValueError when the counts contradict each other."""
    from genai_prices import Usage

    return model.calc_price(Usage(**counts), provider, price_context=context).total_price


def rates_of(provider: Provider, model: ModelInfo) -> Rates | None:
    """What the list asks for each kind of token, or None when its price is no such simple sum: with
    tiers, at certain times, or where parts of the tokens have prices that depend on each other.

    Asked of the list itself, one kind after the other, and compared with what it asks for all.
    """
    from genai_prices.types import ModelPrice

    prices = model.prices
    if not isinstance(prices, ModelPrice) or any(
        not isinstance(price, Decimal) for price in vars(prices).values() if price is not None
    ):
        return None
    count = int(MILLION)
    try:
        fixed = calculate(provider, model, {"input_tokens": 0, "output_tokens": 0})
        prompt = calculate(provider, model, {"input_tokens": count, "output_tokens": 0}) - fixed
        output = calculate(provider, model, {"input_tokens": 0, "output_tokens": count}) - fixed
        parts = {"input_tokens": count, "output_tokens": 0, "cache_read_tokens": count}
        discount = calculate(provider, model, parts) - fixed - prompt
        probe = {"input_tokens": 7919, "output_tokens": 104_729, "cache_read_tokens": 1_299}
        rates = Rates(fixed, prompt, output, discount)
        if rates.price(7919, 104_729, 1_299) != calculate(provider, model, probe):
            return None
    except ValueError:
        return None
    return rates


def _details(usage: Mapping[str, object]) -> dict[str, int]:
    """The parts of the totals that have a price of their own, as the price list names them."""
    prompt = usage.get("prompt_tokens_details")
    completion = usage.get("completion_tokens_details")
    if prompt is None and completion is None:
        return {}
    parts: dict[str, int] = {}
    if isinstance(prompt, Mapping):
        parts["cache_read_tokens"] = count_of(prompt, "cached_tokens")
        parts["cache_write_tokens"] = count_of(prompt, "cache_write_tokens")
        parts["input_audio_tokens"] = count_of(prompt, "audio_tokens")
    if isinstance(completion, Mapping):
        parts["output_audio_tokens"] = count_of(completion, "audio_tokens")
        parts["output_reasoning_tokens"] = count_of(completion, "reasoning_tokens")
    return {name: count for name, count in parts.items() if count}


def count_of(usage: Mapping[str, object], name: str) -> int:
    """A token count as sent by an upstream: anything that is not a sane count reads as none."""
    value = usage.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return 0
    return min(value, TOKENS_MAX)
