"""Finds a plan by its code."""

from __future__ import annotations

from taximeter.api.settings.plans import PLANS, Plan
from taximeter.api.web.errors import ApiError


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
