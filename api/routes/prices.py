"""Shows what models cost, and works out what a request would cost: with the meter's own prices."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from taximeter.api.prices.shown import shown_rates
from taximeter.api.running.dependencies import CallerFirstRoute, PrincipalDep, ServicesDep
from taximeter.api.running.services import Services
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import ShortText
from taximeter.api.web.paging import NEXT, CursorParam, LimitParam, cursor_of, read_cursor
from taximeter.meter.pricing import KINDS, TOKENS_MAX, Pricer, UnpricedModel
from taximeter.meter.pricing.editions import PricesNotKnown
from taximeter.meter.pricing.usage_objects import Counts
from taximeter.meter.wire.credits import MILLICREDITS_PER_CREDIT, credits_of

router = APIRouter(prefix="/api/v1/org-billing", tags=["prices"], route_class=CallerFirstRoute)

DECIMALS: Final = 9
Count = Annotated[int, Query(ge=0, le=TOKENS_MAX, description="How many of these")]
Model = Annotated[ShortText, Query(description="The model, by the name that requests use")]
Provider = Annotated[ShortText | None, Query(description="At whom; the name decides by default")]
Plan = Annotated[ShortText | None, Query(description="At the markup of this plan")]
PowerLevel = Annotated[ShortText | None, Query(description="At the factor of this power level")]


class RateView(BaseModel):
    """What `unit` of a kind cost. Both prices are exact, hence text. `above_tokens`: for prompts of
    more tokens; null for all.
    """

    kind: str
    unit: str
    service_tier: str
    above_tokens: int | None
    dollars: str
    credits: str


class ModelPrice(BaseModel):
    """What a model costs, and why. `source`: `override` is the operator's own file, `corrections`
    and `genai-prices` come with this release, `list` is an edition that was taken over. `dated`:
    the day of which the prices are. `not_metered`: what its publisher charges for besides.
    """

    model: str
    identity: str
    provider: str
    source: str
    version: str
    dated: date | None
    context_window: int | None
    output_tokens_max: int | None
    rates: list[RateView]
    changes_by_time: bool
    not_metered: list[str]


class PriceList(BaseModel):
    """A page of models by name, and which list is in force."""

    list_version: str
    list_dated: date | None
    own_version: str = Field(description="Of the operator's own file; empty without one")
    credits_per_dollar: float
    prices: list[ModelPrice]
    total: int
    limit: int
    next: str | None = Field(description=NEXT)


class CostOfUsage(BaseModel):
    """What this usage is charged: rounded up, once, to a thousandth of a credit. `exact_credits` is
    the sum before that, as text.
    """

    model: str
    identity: str
    source: str
    version: str
    dated: date | None
    credits: float
    exact_credits: str
    counts: dict[str, int]


@router.get("/prices", summary="What models cost")
async def list_prices(
    principal: PrincipalDep,
    services: ServicesDep,
    search: Annotated[ShortText | None, Query(description="A part of the name")] = None,
    plan: Plan = None,
    power_level: PowerLevel = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> PriceList:
    """Each model with its rates in dollars, as published, and in credits, as charged here."""
    pricer = _pricer(services)
    (after,) = read_cursor(cursor, str)
    part = (search or "").lower()
    names = sorted({*pricer.own_names(), *pricer.names()})
    names = [name for name in names if part in name.lower()]
    left = names if after is None else [name for name in names if name > after]
    shown: list[ModelPrice] = []
    last = None
    for name in left:
        if len(shown) == limit:
            break
        last = name
        try:
            shown.append(_price(pricer, name, None, plan, power_level))
        except UnpricedModel:
            continue  # It is listed with nothing that could be metered.
    factor = pricer.credits_of_a_dollar(plan, power_level)
    return PriceList(
        list_version=pricer.list_version,
        list_dated=pricer.list_dated,
        own_version=pricer.file_version,
        credits_per_dollar=float(factor),
        prices=shown,
        total=len(names),
        limit=limit,
        next=cursor_of(last) if last is not None and last != left[-1] else None,
    )


class _Usage:
    """How many of each kind. Those of a prompt, and of an output, do not overlap."""

    def __init__(
        self,
        input: Count = 0,
        output: Count = 0,
        cache_read: Count = 0,
        cache_write: Count = 0,
        cache_write_1h: Count = 0,
        reasoning: Count = 0,
        input_audio: Count = 0,
        output_audio: Count = 0,
        input_image: Count = 0,
        output_image: Count = 0,
        image: Count = 0,
        search: Count = 0,
        audio_hour: Annotated[int, Query(ge=0, le=TOKENS_MAX, description="Seconds of audio")] = 0,
    ) -> None:
        given = locals()
        self.counts = {kind: given[kind] for kind in KINDS if given.get(kind)}


@router.get(
    "/prices/quote",
    summary="What a usage would be charged",
    responses={404: {"description": "The model has no price"}},
)
async def quote_usage(
    principal: PrincipalDep,
    services: ServicesDep,
    model: Model,
    usage: Annotated[_Usage, Depends()],
    provider: Provider = None,
    plan: Plan = None,
    power_level: PowerLevel = None,
    service_tier: Annotated[ShortText | None, Query(description="Such as batch or flex")] = None,
) -> CostOfUsage:
    """Nothing is charged. Worked out as a request is, by the prices of this moment. 404 for a model
    without a price, with those that are called nearly so.
    """
    try:
        price = _pricer(services).price(
            model, provider=provider, plan=plan, power_level=power_level
        )
        if not price.has_tier(service_tier):
            raise UnpricedModel(model, tier=service_tier or "")
    except UnpricedModel as error:
        raise _unpriced(error) from error
    sides = {
        side: sum(count for kind, count in usage.counts.items() if KINDS[kind].side == side)
        for side in ("prompt", "output")
    }
    counts = Counts(usage.counts, sides["prompt"], sides["output"])
    return CostOfUsage(
        model=model,
        identity=price.identity,
        source=price.source,
        version=price.version,
        dated=date.fromisoformat(price.dated) if price.dated else None,
        credits=credits_of(price.cost_of(counts, service_tier=service_tier)),
        exact_credits=_text(price.exact_of(counts, service_tier=service_tier)),
        counts=usage.counts,
    )


def _pricer(services: Services) -> Pricer:
    if not services.pricer.knows_editions:
        raise ApiError(503, "Which price list is in force is not known here yet")
    return services.pricer


def _unpriced(error: UnpricedModel) -> ApiError:
    details: dict[str, object] = {"field": "model"}
    if error.near:
        details["near"] = list(error.near)
    return ApiError(404, str(error), details=details)


def _price(
    pricer: Pricer, name: str, provider: str | None, plan: str | None, power_level: str | None
) -> ModelPrice:
    try:
        sheet, listed = pricer.sheet(name, provider=provider)
        price = pricer.price(name, provider=provider, plan=plan, power_level=power_level)
    except PricesNotKnown as error:
        raise ApiError(503, "Which price list is in force is not known here yet") from error
    rates = shown_rates(sheet, pricer.credits_of_a_dollar(plan, power_level))
    return ModelPrice(
        model=name,
        identity=price.identity,
        provider=price.provider,
        source=price.source,
        version=price.version,
        dated=date.fromisoformat(price.dated) if price.dated else None,
        context_window=sheet.context_window,
        output_tokens_max=price.max_output,
        rates=list(_views(rates)),
        changes_by_time=len(listed.sheets) > 1,
        not_metered=list(sheet.not_metered),
    )


def _views(rates: Iterator[tuple[str, str, str, int | None, str, str]]) -> Iterator[RateView]:
    for service_tier, kind, unit, above, dollars, credits in rates:
        yield RateView(
            kind=kind,
            unit=unit,
            service_tier=service_tier,
            above_tokens=above,
            dollars=dollars,
            credits=credits,
        )


def _text(millicredits: Fraction) -> str:
    """Exact where it has at most nine decimals, which it has unless a factor is odd."""
    exact = millicredits / MILLICREDITS_PER_CREDIT
    number = Decimal(exact.numerator) / Decimal(exact.denominator)
    return f"{round(number, DECIMALS).normalize():f}"
