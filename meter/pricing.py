"""What a model call costs: token counts in, whole millicredits out.

Needs the package `genai-prices` (in the extra `server`), which is imported when a `Pricer` is made:
the plain client never imports this module. Money is `Decimal` dollars up to the single rounding at
the end of a request, which is upwards to a whole millicredit, so that many small requests never add
up to less than was paid upstream.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Literal

from taximeter.meter.limits import AMOUNT_MAX

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

UnknownModelPolicy = Literal["reject", "default", "free"]

MILLICREDITS_PER_CREDIT = 1000
MODELS_REMEMBERED_MAX = 4096
TOKENS_MAX = 10**9
_MILLION = Decimal(1_000_000)


class UnpricedModel(Exception):
    """The model has no price, and the policy for that case is to reject."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"Model '{model}' has no known price. Use a priced model, or let the operator choose "
            "what unknown models cost."
        )
        self.model = model


@dataclass(frozen=True, slots=True)
class Quote:
    """An upper estimate for one request.

    millicredits: what to hold. provider: whose price list was used (`default` or `free` when a
    policy spoke).
    """

    millicredits: int
    price_version: str
    provider: str


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Dollars per million tokens, for models that no price list knows."""

    input_usd: Decimal = Decimal("10")
    output_usd: Decimal = Decimal("30")


class Pricer:
    """Prices requests by the published price list, in the way the settings say.

    credits_per_dollar and markup multiply the list price; `unknown_model` says what happens to a
    model without one: `reject` raises UnpricedModel, `default` uses `default_price`, `free` costs
    nothing. Nothing here does I/O.
    """

    def __init__(
        self,
        *,
        credits_per_dollar: Decimal = Decimal(100),
        markup: Decimal = Decimal(1),
        unknown_model: UnknownModelPolicy = "reject",
        default_price: TokenPrice | None = None,
        provider_id: str | None = None,
    ) -> None:
        if not credits_per_dollar.is_finite() or credits_per_dollar <= 0:
            raise ValueError("credits_per_dollar must be a finite number above zero")
        if not markup.is_finite() or markup < 0:
            raise ValueError("markup must be a finite number of at least zero")
        import genai_prices
        from genai_prices import data_snapshot

        self._snapshot = data_snapshot.get_snapshot()
        self._millicredits_per_dollar = credits_per_dollar * MILLICREDITS_PER_CREDIT * markup
        self._unknown_model = unknown_model
        self._default_price = default_price or TokenPrice()
        self._provider_id = provider_id
        self._models: OrderedDict[str, tuple[Provider, ModelInfo] | None] = OrderedDict()
        self.price_version = (
            f"genai-prices {genai_prices.__version__}, "
            f"{credits_per_dollar} credits a dollar, markup {markup}"
        )

    def estimate(
        self,
        model: str,
        prompt_tokens_bound: int,
        max_output_tokens: int,
        n: int = 1,
        *,
        service_tier: str | None = None,
    ) -> Quote:
        """Price the largest request that the bounds allow. Raises UnpricedModel.

        The prompt bound is cut at the model's context window where that is known, since no longer
        prompt can be accepted. Cached tokens are not assumed: they only ever cost less.
        """
        found = self._find(model)
        if found is not None and found[1].context_window is not None:
            prompt_tokens_bound = min(prompt_tokens_bound, found[1].context_window)
        usage = {
            "prompt_tokens": prompt_tokens_bound,
            "completion_tokens": max_output_tokens * n,
        }
        provider = self._unknown_model if found is None else found[0].id
        return Quote(self._price(found, usage, service_tier), self.price_version, provider)

    def cost(
        self, model: str, usage: Mapping[str, object], *, service_tier: str | None = None
    ) -> int:
        """Price a usage object of OpenAI's shape, in millicredits. Raises UnpricedModel.

        `prompt_tokens` include the cached ones (`prompt_tokens_details.cached_tokens`), which are
        priced at their own rate and not twice. Details that contradict the totals are ignored, the
        totals count.
        """
        return self._price(self._find(model), usage, service_tier)

    def _find(self, model: str) -> tuple[Provider, ModelInfo] | None:
        """Resolve a model name; remembers a bounded number, since callers choose the names."""
        if model in self._models:
            self._models.move_to_end(model)
            found = self._models[model]
        else:
            found = self._look_up(model)
            self._models[model] = found
            if len(self._models) > MODELS_REMEMBERED_MAX:
                self._models.popitem(last=False)
        if found is None and self._unknown_model == "reject":
            raise UnpricedModel(model)
        return found

    def _look_up(self, model: str) -> tuple[Provider, ModelInfo] | None:
        """Search the price list directly: its own cache of names has no bound."""
        reference = model.lower()
        providers = self._snapshot.providers
        if self._provider_id is not None:
            candidates = [one for one in providers if one.id == self._provider_id]
        else:
            candidates = [
                one
                for one in providers
                if one.model_match is not None and one.model_match.is_match(reference)
            ]
        for provider in candidates:
            found = provider.find_model(reference, all_providers=providers)
            if found is not None:
                return provider, found
        return None

    def _price(
        self,
        found: tuple[Provider, ModelInfo] | None,
        usage: Mapping[str, object],
        service_tier: str | None,
    ) -> int:
        prompt_tokens = _count(usage, "prompt_tokens")
        completion_tokens = _count(usage, "completion_tokens")
        if found is not None:
            dollars = _list_price(*found, usage, prompt_tokens, completion_tokens, service_tier)
        elif self._unknown_model == "default":
            price = self._default_price
            dollars = (
                price.input_usd * prompt_tokens + price.output_usd * completion_tokens
            ) / _MILLION
        else:
            dollars = Decimal(0)
        exact = dollars * self._millicredits_per_dollar
        # The cap is the meter's: beyond it a hold would be refused for its size and not for its
        # price.
        return min(int(exact.to_integral_value(rounding=ROUND_CEILING)), AMOUNT_MAX)


def _list_price(
    provider: Provider,
    model: ModelInfo,
    usage: Mapping[str, object],
    prompt_tokens: int,
    completion_tokens: int,
    service_tier: str | None,
) -> Decimal:
    from genai_prices import Usage

    totals: dict[str, int] = {
        "input_tokens": prompt_tokens,
        "output_tokens": completion_tokens,
    }
    context = None if service_tier in (None, "auto") else {"service_tier": str(service_tier)}
    try:
        return model.calc_price(
            Usage(**totals, **_details(usage)), provider, price_context=context
        ).total_price
    except ValueError:
        return model.calc_price(Usage(**totals), provider, price_context=context).total_price


def _details(usage: Mapping[str, object]) -> dict[str, int]:
    """The parts of the totals that have a price of their own, as the price list names them."""
    prompt = usage.get("prompt_tokens_details")
    completion = usage.get("completion_tokens_details")
    parts: dict[str, int] = {}
    if isinstance(prompt, Mapping):
        parts["cache_read_tokens"] = _count(prompt, "cached_tokens")
        parts["cache_write_tokens"] = _count(prompt, "cache_write_tokens")
        parts["input_audio_tokens"] = _count(prompt, "audio_tokens")
    if isinstance(completion, Mapping):
        parts["output_audio_tokens"] = _count(completion, "audio_tokens")
        parts["output_reasoning_tokens"] = _count(completion, "reasoning_tokens")
    return {name: count for name, count in parts.items() if count}


def _count(usage: Mapping[str, object], name: str) -> int:
    """A token count as sent by an upstream: anything that is not a sane count reads as none."""
    value = usage.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return 0
    return min(value, TOKENS_MAX)
