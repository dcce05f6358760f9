"""Lists the plans that can be subscribed to, and what they cost a month in dollars."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


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
