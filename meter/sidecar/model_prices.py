"""Turns a model and token counts into an amount, by the price lists of the sidecar.

A price is fixed at the reserve: it travels with the hold, so that any sidecar can commit by it,
whatever prices have become by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from taximeter.meter.client import Meter
from taximeter.meter.held_estimates import EstimatedHolds
from taximeter.meter.hold import Hold
from taximeter.meter.pricing import (
    TOKENS_MAX,
    Price,
    Pricer,
    UnknownUsage,
    UnpricedModel,
    checked_counts,
)
from taximeter.meter.pricing.editions import PricesNotKnown
from taximeter.meter.sidecar.answers import PRICES_NOT_KNOWN, Refusal, http_refusal
from taximeter.meter.wire.bounded_cache import BoundedCache
from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.usage import Usage

ANSWERS_MAX: Final = 1000
"""Most answers (`n`), and most images, of one request."""
HOLDS_REMEMBERED_MAX: Final = 20_000
_NAME_LENGTH_MAX: Final = 256
_PACKED: Final = "price"
"""Where the price is in the metadata of a hold."""

_BOUNDS: Final = ("prompt_tokens", "max_output_tokens", "n", "images")
_CHOICES: Final = ("service_tier", "provider", "plan", "power_level")
PRICE_FIELDS: Final = frozenset((*_BOUNDS, *_CHOICES, "tokens"))
"""Fields that mean something only together with `model`."""


class Prices:
    """Turns fields into millicredits and into what the charge will be filed under.

    The source and the version of the price go into the metadata, so that a charge says by which
    list it was made.
    """

    def __init__(self, pricer: Pricer, holds: EstimatedHolds) -> None:
        self._pricer = pricer
        self._holds = holds
        self._reserved: BoundedCache[tuple[str, str], Price] = BoundedCache(HOLDS_REMEMBERED_MAX)

    async def reserve(
        self,
        meter: Meter,
        org_id: str,
        user_id: str,
        fields: Mapping[str, Any],
        usage: Usage | None,
        *,
        request_id: str | None,
        ttl_s: float,
        opener: str = "",
    ) -> Hold:
        """Hold for the largest request that the bounds allow, or for as much of that as the policy
        says. Raises InvalidRequest, Refusal and what Meter.reserve raises.
        """
        _check_names(fields)
        price = self._today(fields)
        prompt = _count(fields, "prompt_tokens")
        output = _count(fields, "max_output_tokens")
        answers = _few(fields, "n", 1)
        images = _few(fields, "images", 0)
        try:
            estimate = price.estimate(
                prompt, output, answers, service_tier=fields.get("service_tier"), images=images
            )
        except UnpricedModel as error:
            raise _unpriced(error, str(error)) from None
        found = {**price.metadata(), "estimated": True, _PACKED: price.packed()}
        hold = await self._holds.reserve(
            meter,
            org_id,
            user_id,
            estimate,
            request_id=request_id,
            ttl_s=ttl_s,
            usage=_filed(usage, price, found),
            opener=opener,
        )
        self._reserved.keep((org_id, hold.request_id), price)
        return hold

    def charge(self, fields: Mapping[str, Any], usage: Usage | None) -> tuple[int, Usage]:
        """Price what was used, at today's price. Raises InvalidRequest, Refusal."""
        _check_names(fields)
        return _cost(self._today(fields), fields, usage)

    async def touch(
        self, meter: Meter, org_id: str, fields: Mapping[str, Any], usage: Usage | None
    ) -> tuple[int, Usage]:
        """Price what was used so far, at the price of the reserve, which stays with the hold.
        Raises InvalidRequest, Refusal, StoreError.
        """
        price = await self._at_reserve(meter, org_id, fields)
        amount, found = _cost(price, fields, usage)
        metadata = {**found.metadata, "estimated": True, _PACKED: price.packed()}
        return amount, replace(found, metadata=metadata)

    async def commit(
        self, meter: Meter, org_id: str, fields: Mapping[str, Any], usage: Usage | None
    ) -> tuple[int, Usage]:
        """Price what was used in all, at the price of the reserve. Raises InvalidRequest, Refusal,
        StoreError.
        """
        price = await self._at_reserve(meter, org_id, fields)
        return _cost(price, fields, usage)

    def _today(self, fields: Mapping[str, Any]) -> Price:
        model: str = fields["model"]
        try:
            return self._pricer.price(
                model,
                provider=fields.get("provider"),
                plan=fields.get("plan"),
                power_level=fields.get("power_level"),
            )
        except UnpricedModel as error:
            raise _unpriced(error) from None
        except PricesNotKnown:
            raise PRICES_NOT_KNOWN from None

    async def _at_reserve(self, meter: Meter, org_id: str, fields: Mapping[str, Any]) -> Price:
        """The price that the hold of this request was made at: known from its reserve, or read from
        the hold. Today's, where the hold is gone or was not for this model.
        """
        _check_names(fields)
        request_id: str = fields["request_id"]
        price = self._reserved.get((org_id, request_id))
        if price is None:
            reserved = await meter.usage_of(org_id, request_id)
            packed = None if reserved is None else reserved.metadata.get(_PACKED)
            if isinstance(packed, dict):
                try:
                    price = Price.unpacked(packed)
                except ValueError:
                    price = None
        if price is None or price.model != fields["model"]:
            return self._today(fields)
        # The same name at another host is another model: not what was held for.
        provider = fields.get("provider")
        if provider is None or not price.identity or price.is_at(provider):
            return price
        return self._today(fields)


def _cost(price: Price, fields: Mapping[str, Any], usage: Usage | None) -> tuple[int, Usage]:
    tokens = fields.get("tokens")
    if type(tokens) is not dict:
        raise InvalidRequest("tokens", "given, as a JSON object with token counts")
    try:
        # The rest of the object is the provider's and may hold anything.
        counts = checked_counts(tokens)
    except UnknownUsage as error:
        raise InvalidRequest(f"tokens.{error.field}", error.limit) from None
    found = {
        **price.metadata(tokens, fields.get("service_tier")),
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.output,
        "tokens_used": counts.prompt + counts.output,
    }
    tier = fields.get("service_tier")
    return price.cost(tokens, service_tier=tier), _filed(usage, price, found)


def _filed(usage: Usage | None, price: Price, found: Mapping[str, object]) -> Usage:
    usage = usage or Usage()
    metadata = {**usage.metadata, "model": price.model, **found}
    return Usage(usage.service_type, usage.service_name or price.model, metadata)


def _check_names(fields: Mapping[str, Any]) -> None:
    for field in ("model", *_CHOICES):
        name = fields.get(field)
        if name is None and field != "model":
            continue
        if type(name) is not str or not 1 <= len(name) <= _NAME_LENGTH_MAX:
            raise InvalidRequest(field, f"text of 1 to {_NAME_LENGTH_MAX} characters")


def _few(fields: Mapping[str, Any], field: str, lowest: int) -> int:
    number = fields.get(field, lowest)
    if type(number) is not int or not lowest <= number <= ANSWERS_MAX:
        raise InvalidRequest(field, f"a whole number from {lowest} to {ANSWERS_MAX}")
    return number


def _count(fields: Mapping[str, Any], field: str) -> int:
    count = fields.get(field)
    if type(count) is not int or not 0 <= count <= TOKENS_MAX:
        raise InvalidRequest(field, f"given, as a whole number from 0 to {TOKENS_MAX}")
    return count


def _unpriced(error: UnpricedModel, said: str = "") -> Refusal:
    details: dict[str, object] = {"field": "model", "model": error.model}
    known = ""
    if error.region:
        details["region"] = error.region
        known = f" In {error.region} it costs another price than elsewhere."
    if error.tier:
        details |= {"field": "service_tier", "service_tier": error.tier}
    if error.near:
        details["near"] = list(error.near)
        known += f" Known are {', '.join(error.near)}."
    words = (
        said
        or f"This model has no known price.{known} Give an amount, or let the operator price it."
    )
    return http_refusal("unpriced_model", details, words=words)
