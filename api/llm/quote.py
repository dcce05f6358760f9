"""Works out what a request can cost: what must be held for it, and how much output a hold can pay.

Who sets no limit of output gets as much as the model can put out where an eighth of what they have
pays for that. Else an eighth is held, though never less than for the output that is assumed, and
the output that this pays for is the limit that goes upstream
([decision 0062](../../docs/decisions/0062-an-open-end-is-paid-for.md)).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taximeter.api.llm.estimates import PromptSize
from taximeter.api.llm.reported_usage import Bounds, bounds_of
from taximeter.api.openai.checks import invalid
from taximeter.api.openai.request import LlmRequest
from taximeter.api.settings.api import ApiSettings
from taximeter.api.upstreams.router import Target
from taximeter.api.web.errors import ApiError
from taximeter.meter.pricing import Price, Pricer, UnpricedModel
from taximeter.meter.pricing.editions import PricesNotKnown

CEILING_UNKNOWN = 131_072
"""Output tokens of one answer of a model of which nothing is known."""


def prices_not_known() -> ApiError:
    """503: this process has not read yet which price list is in force."""
    return ApiError.of("prices_not_known")


@dataclass(frozen=True, slots=True)
class Quote:
    """`least` and `full` are millicredits: what must be held at least, and what covers the largest
    answer. They differ only for who sets no limit of output. `prices`: of each target that has one,
    from now to the charge.
    """

    chat: LlmRequest
    prompt: PromptSize
    prices: Mapping[Target, Price]
    bytes_per_token: int
    assumed: int
    ceiling: int
    least: int
    full: int

    def output_paid_by(self, held: int) -> int | None:
        """The most output tokens of each answer that this hold pays for, whoever answers: at least
        what is assumed; None where it pays for all that there can be.
        """
        if held >= self.full:
            return None
        low, high = self.assumed, self.ceiling
        while low < high:
            middle = (low + high + 1) // 2
            if _amount(self, middle) <= held:
                low = middle
            else:
                high = middle - 1
        return low

    def bounds(self) -> dict[Target, Bounds]:
        """The most that this request can use at each target: what is reported beyond is cut."""
        chat, prompt = self.chat, self.prompt
        return {
            target: bounds_of(
                price,
                prompt_bound=prompt.bound(target.price_as) + prompt.audio_tokens,
                limit=chat.output_tokens_limit,
                n=chat.n,
                inputs=chat.inputs,
            )
            for target, price in self.prices.items()
        }


def quote(
    settings: ApiSettings,
    pricer: Pricer,
    chat: LlmRequest,
    prompt: PromptSize,
    targets: tuple[Target, ...],
    plan: str | None,
) -> Quote:
    """Price a request at all of its targets. Those without a price are left out: nothing is sent
    where its cost would be unknown. Raises ApiError 400 if none has one, 422 for a power level that
    is not the caller's to choose, 503 while it is not known which price list is in force.
    """
    prices = {}
    refusal: UnpricedModel | None = None
    for target in targets:
        level = _power_level(settings, chat, target, plan)
        try:
            price = pricer.price(
                target.price_as, provider=target.provider, plan=plan, power_level=level
            )
            images = chat.n if chat.surface.makes_images else 0
            price.estimate(0, 0, service_tier=chat.service_tier, images=images)
        except PricesNotKnown as error:
            raise prices_not_known() from error
        except UnpricedModel as error:
            refusal = error
        else:
            prices[target] = price
    if not prices:
        details: dict[str, object] = {"model": chat.model}
        if refusal is not None and refusal.near:
            details["near"] = list(refusal.near)
        if refusal is not None and refusal.tier:
            details["service_tier"] = refusal.tier
        raise ApiError.of("unpriced_model", words=str(refusal), details=details) from refusal
    ceiling = max(price.max_output or CEILING_UNKNOWN for price in prices.values())
    limit = chat.surface.fixed_output
    if limit is None:
        limit = chat.output_tokens_limit
    assumed = min(settings.output_tokens_assumed, ceiling)
    if limit is not None:
        assumed = ceiling = limit
    found = Quote(
        chat, prompt, prices, settings.estimate_bytes_per_token, assumed, ceiling, least=0, full=0
    )
    least = _amount(found, assumed)
    full = least if ceiling == assumed else _amount(found, ceiling)
    return Quote(
        chat, prompt, prices, found.bytes_per_token, assumed, ceiling, least=least, full=full
    )


def _amount(one: Quote, output: int) -> int:
    """Millicredits of the dearest target with so much output. The tier that the caller wishes only
    makes it dearer: which one counts, the answer says.
    """
    chat, prompt = one.chat, one.prompt
    tiers = {None, chat.service_tier}
    return max(
        price.estimate(
            prompt.bound(target.price_as, one.bytes_per_token),
            output,
            chat.n,
            service_tier=tier,
            prompt_kind=prompt.prompt_kind,
            audio_tokens=prompt.audio_tokens,
            images=chat.n if chat.surface.makes_images else 0,
        )
        for target, price in one.prices.items()
        for tier in tiers
    )


def _power_level(
    settings: ApiSettings, chat: LlmRequest, target: Target, plan: str | None
) -> str | None:
    """The level that the route has, or the payer's plan. A caller's own is a word for the books,
    unless it has a price: then it must be the one that is so decided.
    """
    level = target.power_level or settings.power_level_by_plan.get(plan or "")
    if chat.power_level in settings.markup_by_power_level and chat.power_level != level:
        raise invalid(
            "power_level",
            "has a price of its own, so route and plan decide it: here it is "
            + (f"'{level}'" if level else "none"),
        )
    return level
