"""Says usage and purchases in the columns of FOCUS 1.2, by its example for virtual currencies:
credits are bought for money (BilledCost), and what is used of them is worth that money
(EffectiveCost) and billed no second time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from taximeter.settler.exports.columns import (
    Column,
    Kind,
    Row,
    Terms,
    Type,
    credits_exactly,
    month_of,
)

VERSION: Final = "1.2"
CREDIT: Final = "Credits"
"""The virtual currency, and the unit of what is used."""
_ONE: Final = Decimal(1)
_NOTHING: Final = Decimal(0)


def _price(terms: Terms) -> Decimal:
    assert terms.credit_price is not None, "checked with the settings"
    return terms.credit_price


def _is_usage(row: Row) -> bool:
    return row["bought_for"] is None


def _value(row: Row, terms: Terms) -> Decimal:
    """What a row is worth: what was used at the price of a credit, or what was paid."""
    if _is_usage(row):
        return credits_exactly(row["credits_used"]) * _price(terms)
    paid: Decimal = row["bought_for"]
    return paid


def _unit_price(row: Row, terms: Terms) -> Decimal:
    return _price(terms) if _is_usage(row) else abs(row["bought_for"])


def _quantity(row: Row, terms: Terms) -> Decimal:
    """Credits; a purchase is one, and money that was given back is minus one."""
    if _is_usage(row):
        return credits_exactly(row["credits_used"])
    return _ONE.copy_sign(row["bought_for"])


def _either(usage: Any, purchase: Any) -> Callable[[Row, Terms], Any]:
    return lambda row, terms: usage if _is_usage(row) else purchase


def _when(row: Row, shift: timedelta) -> datetime:
    day = row["day"]
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + shift


def _sku(row: Row, terms: Terms) -> str:
    if not _is_usage(row):
        return "credits"
    return f"{row['service_type']}/{row['service_name']}".rstrip("/")


def _described(row: Row, terms: Terms) -> str:
    if _is_usage(row):
        return f"Credits used: {_sku(row, terms)}"
    return "Credits bought" if row["bought_for"] >= 0 else "Money given back"


def _currency(row: Row, terms: Terms) -> str:
    return terms.currency if _is_usage(row) else str(row["currency"])


def _column(
    name: str, type: Type, about: str, read: Callable[[Row, Terms], Any], nullable: bool = False
) -> Column:
    return Column(name, type, about, read, nullable)


_C: Final = _column

FOCUS: Final = Kind(
    "focus",
    "what was used each day, by user and model, and what was bought, in the columns of FOCUS 1.2;"
    " its sum is that of `x_UsedMillicredits`",
    "credits_used",
    (
        _C("BilledCost", "money", "what was paid; 0 for what is used of bought credits",
           lambda row, terms: _NOTHING if _is_usage(row) else row["bought_for"]),
        _C("BillingAccountId", "text", "the organisation", lambda row, terms: row["org_id"]),
        _C("BillingAccountName", "text", "its name", lambda row, terms: row["org_name"]),
        _C("BillingAccountType", "text", "always", lambda row, terms: "Organization"),
        _C("BillingCurrency", "text", "by setting; that of the payment for a purchase", _currency),
        _C("BillingPeriodEnd", "moment", "the first moment of the next month",
           lambda row, terms: month_of(row["day"])[1]),
        _C("BillingPeriodStart", "moment", "that of the month",
           lambda row, terms: month_of(row["day"])[0]),
        _C("ChargeCategory", "text", "Usage or Purchase", _either("Usage", "Purchase")),
        _C("ChargeClass", "text", "always null", lambda row, terms: None, True),
        _C("ChargeDescription", "text", "in words", _described),
        _C("ChargeFrequency", "text", "Usage-Based or One-Time",
           _either("Usage-Based", "One-Time")),
        _C("ChargePeriodEnd", "moment", "the first moment of the next day",
           lambda row, terms: _when(row, timedelta(days=1))),
        _C("ChargePeriodStart", "moment", "that of the day",
           lambda row, terms: _when(row, timedelta())),
        _C("ConsumedQuantity", "money", "requests; null for a purchase",
           lambda row, terms: Decimal(row["requests"]) if _is_usage(row) else None, True),
        _C("ConsumedUnit", "text", "Requests, or null", _either("Requests", None), True),
        _C("ContractedCost", "money", "as EffectiveCost; what was paid for a purchase", _value),
        _C("ContractedUnitPrice", "money", "what a credit is worth, by setting", _unit_price),
        _C("EffectiveCost", "money", "credits at that price; 0 for a purchase",
           lambda row, terms: _value(row, terms) if _is_usage(row) else _NOTHING),
        _C("InvoiceIssuerName", "text", "by setting", lambda row, terms: terms.provider),
        _C("ListCost", "money", "as ContractedCost", _value),
        _C("ListUnitPrice", "money", "as ContractedUnitPrice", _unit_price),
        _C("PricingCategory", "text", "always", lambda row, terms: "Standard"),
        _C("PricingCurrency", "text", "Credits; the currency of a purchase",
           lambda row, terms: CREDIT if _is_usage(row) else _currency(row, terms)),
        _C("PricingCurrencyContractedUnitPrice", "money", "1 for a credit",
           lambda row, terms: _ONE if _is_usage(row) else _unit_price(row, terms)),
        _C("PricingCurrencyEffectiveCost", "money", "credits; 0 for a purchase",
           lambda row, terms: _quantity(row, terms) if _is_usage(row) else _NOTHING),
        _C("PricingCurrencyListUnitPrice", "money", "1 for a credit",
           lambda row, terms: _ONE if _is_usage(row) else _unit_price(row, terms)),
        _C("PricingQuantity", "money", "credits; 1 for a purchase", _quantity),
        _C("PricingUnit", "text", "Credits, or Count", _either(CREDIT, "Count")),
        _C("ProviderName", "text", "by setting", lambda row, terms: terms.provider),
        _C("PublisherName", "text", "by setting", lambda row, terms: terms.provider),
        _C("ServiceCategory", "text", "always", lambda row, terms: "AI and Machine Learning"),
        _C("ServiceName", "text", "the kind of service",
           lambda row, terms: row["service_type"] if _is_usage(row) else "credits"),
        _C("ServiceSubcategory", "text", "always", lambda row, terms: "Generative AI"),
        _C("SkuId", "text", "kind of service and model", _sku),
        _C("SkuMeter", "text", "what is counted", _either("Requests", "Purchases")),
        _C("SkuPriceDetails", "json", "always null", lambda row, terms: None, True),
        _C("SkuPriceId", "text", "as SkuId", _sku),
        _C("SubAccountId", "text", "the user; null for a purchase",
           lambda row, terms: row["user_id"], True),
        _C("SubAccountName", "text", "the same", lambda row, terms: row["user_id"], True),
        _C("SubAccountType", "text", "User, or null", _either("User", None), True),
        _C("x_Model", "text", "the model, where it is known",
           lambda row, terms: row["service_name"] or None, True),
        _C("x_UsedMillicredits", "whole", "what was used; 0 for a purchase",
           lambda row, terms: row["credits_used"]),
    ),
)  # fmt: skip
