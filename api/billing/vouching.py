"""Decides whether a purchase of credits is believed: somebody vouches for it, or a payment provider
does.

An organisation's own admin could otherwise write down any number of credits for a payment that
nobody has made.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from taximeter.api.billing.payments import PaymentVerifier, VerifiedPayment
from taximeter.api.web.errors import ApiError
from taximeter.meter.wire.credits import credits_of, text_of_credits

BY_SYSTEM_ADMIN: Final = "system_admin"
BY_PLAN: Final = "plan"
BY_SETTING: Final = "setting:purchases_by_org_admins"


async def who_vouches(
    verifier: PaymentVerifier | None,
    org_id: str,
    *,
    is_system_admin: bool,
    open_to_org_admins: bool,
    millicredits: int,
    dollars: Decimal,
    payment_id: str | None,
) -> str:
    """Why these credits may be added, for the audit log: a system admin, a payment that the
    provider confirms for this organisation, this amount and these credits, or the setting that
    opens it. Raises ApiError 403 or 400 otherwise, 503 when the provider cannot be asked.
    """
    if is_system_admin:
        return BY_SYSTEM_ADMIN
    if verifier is not None and payment_id is not None:
        payment = await _ask(verifier, payment_id)
        if payment is not None and payment.org_id == org_id:
            _refuse_other_figures(payment, millicredits, dollars)
            return f"payment:{verifier.name}"
    if open_to_org_admins:
        return BY_SETTING
    raise ApiError(
        403,
        "Credits are added by a system admin, or with the stripe_payment_id of a payment that is"
        " verified for this organization",
        details={"field": "stripe_payment_id"},
    )


async def _ask(verifier: PaymentVerifier, payment_id: str) -> VerifiedPayment | None:
    try:
        return await verifier.find(payment_id)
    except (OSError, TimeoutError) as error:
        raise ApiError.of("payment_provider", headers={"Retry-After": "5"}) from error


def _refuse_other_figures(payment: VerifiedPayment, millicredits: int, dollars: Decimal) -> None:
    """A payment of one dollar does not pay for a million credits."""
    if payment.millicredits != millicredits:
        raise ApiError(
            400,
            f"credits: this payment has paid for {text_of_credits(payment.millicredits)} credits",
            details={"field": "credits", "paid_for": credits_of(payment.millicredits)},
        )
    if payment.dollars != dollars:
        raise ApiError(
            400,
            f"purchase_amount: this payment was of {payment.dollars} dollars",
            details={"field": "purchase_amount", "paid": float(payment.dollars)},
        )
