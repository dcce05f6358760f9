"""Fixes the price of one model for one request, whatever becomes of price lists.

Rates are whole numbers of a small enough part of a millicredit that none of them is rounded; the
sum is rounded up, once. So the arithmetic is exact, and costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Any, Final

from taximeter.meter.pricing.identity import host_of
from taximeter.meter.pricing.kinds import KINDS
from taximeter.meter.pricing.rates import (
    WholeRate,
    exact_rates,
    packed_rates,
    rate_of,
    sum_in_parts,
    unpacked_rates,
    whole_rates,
)
from taximeter.meter.pricing.sheet import Sheet
from taximeter.meter.pricing.usage_objects import Counts, counts_of
from taximeter.meter.wire.limits import AMOUNT_MAX

IMAGE_TOKENS_MAX = 6_240
"""Most output tokens of an image where tokens are what it is sold by."""
VERSION_LENGTH_MAX: Final = 256
IDENTITY_LENGTH_MAX: Final = 320
"""What a charge says of its price has a bound, since it travels with each."""
_TRAFFIC: Final = {
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
    "FLEX": "flex",
    "BATCH": "batch",
}
"""Gemini's words for service tiers."""
_ORDINARY: Final = frozenset(
    ("", "auto", "default", "standard", "standard_only", "on_demand", "scale", "provisioned")
)
"""What hosts call the service tier that a plain price is for, or that was paid for beforehand."""
_ANYWHERE: Final = frozenset(("", "global", "not_available"))
"""What Anthropic's usage objects say where the place makes no difference in price."""
_PUBLISHED: Final = frozenset(("genai-prices", "corrections"))


class UnpricedModel(Exception):
    """The model has no price, or none for what a request of this kind is counted in."""

    def __init__(
        self, model: str, near: Sequence[str] = (), tier: str = "", region: str = ""
    ) -> None:
        known = f" Known are {', '.join(near)}." if near else ""
        if region:
            known = f" In {region} it costs another price than elsewhere.{known}"
        super().__init__(
            f"Service tier '{tier}' of model '{model}' has no known price. Leave service_tier out, "
            "or let the operator price it."
            if tier
            else f"Model '{model}' has no known price.{known} Use a priced model, or let the "
            "operator choose what unknown models cost."
        )
        self.model = model
        self.near = tuple(near)
        self.tier = tier
        self.region = region


@dataclass(frozen=True)
class Price:
    """What one model costs, with credits per dollar and markup worked in.

    model: as the caller named it. provider: whose price it is, empty when no list has it. source:
    `genai-prices`, `corrections`, `override`, `default` or `free`. version: which edition of the
    source, and by which rates of the operator. identity: the model that was meant, as
    host/region/name. dated: the day of which the source's prices are; empty if nobody says. geos:
    the factor of all tokens where a usage says that it ran there, as numerator and denominator.
    """

    model: str
    provider: str
    source: str
    version: str
    parts: int
    rates: Mapping[str, WholeRate]
    modes: Mapping[str, Mapping[str, WholeRate]]
    is_part: bool = False
    context_window: int | None = None
    max_output: int | None = None
    identity: str = ""
    search_once: bool = False
    dated: str = ""
    geos: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        sheet: Sheet,
        millicredits_per_dollar: Decimal,
        *,
        model: str,
        provider: str,
        source: str,
        version: str,
        max_output: int | None = None,
        identity: str = "",
        dated: str = "",
    ) -> Price:
        """The price that a sheet makes at this worth of a dollar."""
        factor = Fraction(millicredits_per_dollar)
        exact = {mode: exact_rates(rates, factor) for mode, rates in sheet.modes.items()}
        exact[""] = exact_rates(sheet.rates, factor)
        geos = {geo: more.as_integer_ratio() for geo, more in sheet.geos.items()}
        parts = lcm(
            *(
                (value * more).denominator
                for rates in exact.values()
                for base, tiers in rates.values()
                for value in (base, *(price for _, price in tiers))
                for more in (Fraction(1), *(Fraction(*one) for one in geos.values()))
            )
        )
        whole = {mode: whole_rates(rates, parts) for mode, rates in exact.items()}
        return cls(
            model=model,
            provider=provider,
            source=source,
            version=version[:VERSION_LENGTH_MAX],
            parts=parts,
            rates=whole.pop(""),
            modes=whole,
            is_part=sheet.tier_rule == "part",
            context_window=sheet.context_window,
            max_output=sheet.max_output or max_output,
            identity=identity[:IDENTITY_LENGTH_MAX],
            search_once=sheet.search_once,
            dated=dated,
            geos=geos,
        )

    def cost(self, usage: Mapping[str, object], *, service_tier: str | None = None) -> int:
        """Millicredits of a usage object of any provider's shape: rounded up once, to a whole
        millicredit, and at most what the meter takes as one amount.
        """
        if service_tier in (None, "auto"):
            service_tier = _mode(usage)
        return self.cost_of(counts_of(usage), service_tier=service_tier, geo=_geo(usage))

    def cost_of(
        self, counts: Counts, *, service_tier: str | None = None, geo: str | None = None
    ) -> int:
        """Millicredits of counts that were read before. `geo`: the part of the world in which it
        ran, if that was asked for.
        """
        return min(-(-self._total(counts, service_tier, geo) // self.parts), AMOUNT_MAX)

    def exact_of(self, counts: Counts, *, service_tier: str | None = None) -> Fraction:
        """The same before it is rounded."""
        return Fraction(self._total(counts, service_tier), self.parts)

    def _total(self, counts: Counts, service_tier: str | None, geo: str | None = None) -> int:
        """What counts cost, in parts of a millicredit."""
        rates = self._all_rates.get(service_tier or "", self._all_rates[""])
        if geo is not None and geo in self.geos:
            rates = _dearer(rates, *self.geos[geo])
        kinds = counts.kinds
        if "image" in kinds and "image" not in (sold_by := self._sold_by(service_tier)):
            if not counts.output:
                kinds = {**kinds, "output_image": kinds["image"] * IMAGE_TOKENS_MAX}
            elif "output_image" in sold_by and "output_image" not in kinds:
                # The usage does not tell its output apart: who makes images was asked for one.
                kinds = {**kinds, "output_image": kinds.get("output", 0), "output": 0}
        if self.search_once and kinds.get("search", 0) > 1:
            kinds = {**kinds, "search": 1}
        total = rates["request"][0]
        if self.is_part:
            total += sum_in_parts(rates, kinds)
        else:
            prompt = counts.prompt
            for kind, count in kinds.items():
                price, tiers = rates[kind]
                for start, dearer in tiers:
                    if prompt > start:
                        price = dearer
                total += price * count
        return total

    def estimate(
        self,
        prompt_tokens: int,
        output_tokens: int,
        n: int = 1,
        *,
        service_tier: str | None = None,
        prompt_kind: str | None = None,
        output_kind: str | None = None,
        audio_tokens: int = 0,
        images: int = 0,
    ) -> int:
        """Millicredits of the largest request within these bounds, times `n` answers.

        The prompt is cut at the context window and each answer at the most that the model puts out,
        where these are known. `prompt_kind` and `output_kind` say how they are charged; by default
        the dearer way of plainly or written to a cache, and of plainly or reasoning. Cache reads
        are never assumed, since they only make it cheaper. `audio_tokens` are those of the prompt
        besides; `images` are made. Raises UnpricedModel when these are not what it is sold by, and
        for a service tier that is asked for and has no price.
        """
        if not self.has_tier(service_tier):
            raise UnpricedModel(self.model, tier=service_tier or "")
        if not self._has_estimate:
            raise UnpricedModel(self.model)
        if self.context_window is not None:
            prompt_tokens = min(prompt_tokens, self.context_window)
        if self.max_output is not None:
            output_tokens = min(output_tokens, self.max_output)
        output = output_tokens * n
        others = {"image": images, "input_audio": audio_tokens}
        others = {kind: count for kind, count in others.items() if count}
        sold_by = self._sold_by(service_tier)
        prompts = ["input" if prompt_kind is None else prompt_kind]
        outputs = ["output" if output_kind is None else output_kind]
        if prompt_kind is None and "cache_write" in sold_by:
            prompts.append("cache_write")
        if output_kind is None and "reasoning" in sold_by:
            outputs.append("reasoning")
        return max(
            self.cost_of(
                Counts(
                    {**others, prompt: prompt_tokens, made: output},
                    prompt_tokens + audio_tokens,
                    output,
                ),
                service_tier=service_tier,
            )
            for prompt in prompts
            for made in outputs
        )

    def is_at(self, provider: str) -> bool:
        """Whether it is the price at this host, under whichever of its names."""
        return host_of(provider) in (self.provider, self.identity.partition("/")[0])

    @cached_property
    def is_free(self) -> bool:
        """Whether nothing costs anything: such a charge is recorded, with an amount of 0."""
        return not any(price or tiers for price, tiers in self.rates.values())

    def has_tier(self, service_tier: str | None) -> bool:
        """Whether there is a price of this service tier. An operator's own prices, and those of
        models that no list has, are for all tiers.
        """
        tier = service_tier or ""
        return tier in _ORDINARY or tier in self.modes or self.source not in _PUBLISHED

    def metadata(
        self, usage: Mapping[str, object] | None = None, service_tier: str | None = None
    ) -> dict[str, object]:
        """What a charge says about its price; with its usage also that the answer names a service
        tier of which there is no price, so that the plain one was taken.
        """
        found: dict[str, object] = {"price_source": self.source, "price_version": self.version}
        if self.identity:
            found["price_of"] = self.identity
        if self.dated:
            found["price_dated"] = self.dated
        if self.is_free:
            found["free"] = True
        if service_tier in (None, "auto"):
            service_tier = _mode(usage or {})
        if not self.has_tier(service_tier):
            found["unpriced_service_tier"] = service_tier
        geo = _geo(usage or {})
        is_anthropics = self.source in _PUBLISHED and self.provider == "anthropic"
        if geo is not None and (self.geos or is_anthropics):
            found["price_geo" if geo in self.geos else "unpriced_geo"] = geo
        return found

    def packed(self) -> dict[str, Any]:
        """All of it as JSON, to travel with a hold: some hundred bytes. See `unpacked`."""
        modes = {mode: packed_rates(rates) for mode, rates in self.modes.items()}
        found: list[object] = [self.provider, self.source, self.version, self.parts]
        found += [self.is_part, self.identity, self.search_once, self.dated]
        if self.geos:
            found.append({geo: list(factor) for geo, factor in self.geos.items()})
        return {"m": self.model, "p": found, "r": packed_rates(self.rates), "s": modes}

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Price:
        """The price that `packed` wrote. Raises ValueError when it is none."""
        try:
            provider, source, version, parts, is_part, *rest = packed["p"]
            rates = unpacked_rates(packed["r"])
            modes = {str(mode): unpacked_rates(listed) for mode, listed in packed["s"].items()}
            if type(parts) is not int or parts < 1:
                raise ValueError("parts")
            return cls(
                model=str(packed["m"]),
                provider=provider,
                source=source,
                version=version,
                parts=parts,
                rates=rates,
                modes=modes,
                is_part=bool(is_part),
                # Holds of before have none of these.
                identity=str(rest[0]) if rest else "",
                search_once=len(rest) > 1 and rest[1] is True,
                dated=str(rest[2]) if len(rest) > 2 else "",
                geos=_unpacked_geos(rest[3]) if len(rest) > 3 else {},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a packed price: {error!r}") from error

    @cached_property
    def _has_estimate(self) -> bool:
        """Whether tokens, images or requests are what it is sold by."""
        kinds = ("input", "output", "image", "request")
        return self.is_free or any(self._all_rates[""][kind][0] for kind in kinds)

    @cached_property
    def _all_rates(self) -> Mapping[str, Mapping[str, WholeRate]]:
        """By service tier, for every kind: those without a price of their own have a parent's."""
        every = {"": self.rates, **self.modes}
        return {
            mode: {kind: rate_of(kind, rates) for kind in KINDS} for mode, rates in every.items()
        }

    def _sold_by(self, service_tier: str | None) -> Mapping[str, WholeRate]:
        return self.modes.get(service_tier or "", self.rates)


def _dearer(rates: Mapping[str, WholeRate], times: int, by: int) -> Mapping[str, WholeRate]:
    """The rates where all tokens cost `times` / `by` as much: the parts are small enough for it."""
    return {
        kind: (
            (price * times // by, tuple((start, one * times // by) for start, one in tiers))
            if KINDS[kind].side != "other"
            else (price, tiers)
        )
        for kind, (price, tiers) in rates.items()
    }


def _unpacked_geos(listed: Any) -> dict[str, tuple[int, int]]:
    found = {str(geo): (times, by) for geo, (times, by) in listed.items()}
    if not all(type(one) is int and one > 0 for factor in found.values() for one in factor):
        raise ValueError("geos")
    return found


def _geo(usage: Mapping[str, object]) -> str | None:
    """The part of the world in which Anthropic says that it ran, if that was asked for."""
    geo = usage.get("inference_geo")
    return geo.lower()[:16] if isinstance(geo, str) and geo.lower() not in _ANYWHERE else None


def _mode(usage: Mapping[str, object]) -> str | None:
    """The service tier that a usage object itself names, as Anthropic's do."""
    if usage.get("speed") == "fast":
        return "fast"
    tier = usage.get("service_tier")
    if isinstance(tier, str):
        return tier
    traffic = usage.get("trafficType", usage.get("traffic_type"))
    return _TRAFFIC.get(traffic) if isinstance(traffic, str) else None
