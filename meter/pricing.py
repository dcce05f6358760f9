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
from taximeter.meter.price_list import MILLION, ListedModel, count_of, list_price, rates_of
from taximeter.meter.price_list import TOKENS_MAX as TOKENS_MAX

if TYPE_CHECKING:
    pass

UnknownModelPolicy = Literal["reject", "default", "free"]

MILLICREDITS_PER_CREDIT = 1000
MODELS_REMEMBERED_MAX = 4096


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
        self._models: OrderedDict[str, ListedModel | None] = OrderedDict()
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
        if found is not None and found.model.context_window is not None:
            prompt_tokens_bound = min(prompt_tokens_bound, found.model.context_window)
        usage = {
            "prompt_tokens": prompt_tokens_bound,
            "completion_tokens": max_output_tokens * n,
        }
        provider = self._unknown_model if found is None else found.provider.id
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

    def _find(self, model: str) -> ListedModel | None:
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

    def _look_up(self, model: str) -> ListedModel | None:
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
                return ListedModel(provider, found, rates_of(provider, found))
        return None

    def _price(
        self,
        found: ListedModel | None,
        usage: Mapping[str, object],
        service_tier: str | None,
    ) -> int:
        prompt_tokens = count_of(usage, "prompt_tokens")
        completion_tokens = count_of(usage, "completion_tokens")
        if found is not None:
            dollars = list_price(found, usage, prompt_tokens, completion_tokens, service_tier)
        elif self._unknown_model == "default":
            price = self._default_price
            dollars = (
                price.input_usd * prompt_tokens + price.output_usd * completion_tokens
            ) / MILLION
        else:
            dollars = Decimal(0)
        exact = dollars * self._millicredits_per_dollar
        # The cap is the meter's: beyond it a hold would be refused for its size and not for its
        # price.
        return min(int(exact.to_integral_value(rounding=ROUND_CEILING)), AMOUNT_MAX)
