"""The plans that can be subscribed to, and what they cost a month in dollars."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from taximeter.api.web.errors import ApiError


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan. Prices only ever matter at the moment a subscription is made: it keeps its own
    copy.
    """

    code: str
    name: str
    monthly_price: Decimal


PLANS = {
    plan.code: plan
    for plan in (
        Plan("trial", "Trial", Decimal("1.00")),
        Plan("starter", "Starter", Decimal("19.00")),
        Plan("professional", "Professional", Decimal("49.00")),
        Plan("enterprise", "Enterprise", Decimal("99.00")),
    )
}


def plan_of(code: str, field: str = "plan_code") -> Plan:
    """The plan of this code. Raises ApiError 400 that lists what there is."""
    plan = PLANS.get(code)
    if plan is None:
        raise ApiError(
            400,
            f"{field} must be one of {', '.join(PLANS)}",
            details={"field": field},
        )
    return plan
