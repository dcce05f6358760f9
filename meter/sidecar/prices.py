"""Amounts as a model and token counts: priced here by the price list that the sidecar was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from taximeter.meter.errors import InvalidRequest
from taximeter.meter.limits import AMOUNT_MAX
from taximeter.meter.models import Usage
from taximeter.meter.pricing import TOKENS_MAX, UnpricedModel
from taximeter.meter.sidecar.refusals import Refusal

if TYPE_CHECKING:
    from taximeter.meter.pricing import Pricer

ANSWERS_MAX: Final = 1000
"""Most answers (`n`) of one request."""
_NAME_LENGTH_MAX: Final = 256

PRICE_FIELDS: Final = frozenset(
    ("prompt_tokens", "max_output_tokens", "n", "tokens", "service_tier")
)
"""Fields that mean something only together with `model`."""


class Prices:
    """Turns fields into millicredits and into what the charge will be filed under.

    The price version goes into the metadata, so that a charge says by which list it was made.
    """

    def __init__(self, pricer: Pricer) -> None:
        self._pricer = pricer

    def estimate(self, fields: Mapping[str, Any], usage: Usage | None) -> tuple[int, Usage]:
        """Price the largest request that the bounds allow. Raises InvalidRequest, Refusal."""
        model, tier = _model(fields), _tier(fields)
        prompt = _tokens(fields, "prompt_tokens")
        output = _tokens(fields, "max_output_tokens")
        answers = fields.get("n", 1)
        if type(answers) is not int or not 1 <= answers <= ANSWERS_MAX:
            raise InvalidRequest("n", f"a whole number from 1 to {ANSWERS_MAX}")
        try:
            quote = self._pricer.estimate(model, prompt, output, answers, service_tier=tier)
        except UnpricedModel:
            raise _unpriced(model) from None
        amount = min(quote.millicredits, AMOUNT_MAX)
        return amount, self._usage(usage, model, {"estimated": True})

    def cost(self, fields: Mapping[str, Any], usage: Usage | None) -> tuple[int, Usage]:
        """Price what was used, from a usage object as providers send it. Raises InvalidRequest,
        Refusal.
        """
        model, tier = _model(fields), _tier(fields)
        tokens = fields.get("tokens")
        if type(tokens) is not dict:
            raise InvalidRequest("tokens", "given, as a JSON object with token counts")
        # The rest of the object is the provider's and may hold anything.
        prompt = _tokens(tokens, "prompt_tokens", "tokens.")
        output = _tokens(tokens, "completion_tokens", "tokens.")
        try:
            amount = min(self._pricer.cost(model, tokens, service_tier=tier), AMOUNT_MAX)
        except UnpricedModel:
            raise _unpriced(model) from None
        counts = {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "tokens_used": prompt + output,
        }
        return amount, self._usage(usage, model, counts)

    def _usage(self, usage: Usage | None, model: str, found: Mapping[str, object]) -> Usage:
        usage = usage or Usage()
        metadata = {
            **usage.metadata,
            "model": model,
            "price_version": self._pricer.price_version,
            **found,
        }
        return Usage(usage.service_type, usage.service_name or model, metadata)


def _model(fields: Mapping[str, Any]) -> str:
    model = fields["model"]
    if type(model) is not str or not 1 <= len(model) <= _NAME_LENGTH_MAX:
        raise InvalidRequest("model", f"text of 1 to {_NAME_LENGTH_MAX} characters")
    return model


def _tier(fields: Mapping[str, Any]) -> str | None:
    tier = fields.get("service_tier")
    if tier is not None and (type(tier) is not str or len(tier) > _NAME_LENGTH_MAX):
        raise InvalidRequest("service_tier", f"text of at most {_NAME_LENGTH_MAX} characters")
    return tier


def _tokens(fields: Mapping[str, Any], name: str, prefix: str = "") -> int:
    count = fields.get(name)
    if type(count) is not int or not 0 <= count <= TOKENS_MAX:
        raise InvalidRequest(f"{prefix}{name}", f"given, as a whole number from 0 to {TOKENS_MAX}")
    return count


def _unpriced(model: str) -> Refusal:
    return Refusal(
        400,
        "UNPRICED_MODEL",
        "This model has no known price. Give an amount, or let the operator price it.",
        {"field": "model", "model": model},
    )
