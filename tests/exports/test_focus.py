"""The kind `focus` beside the columns of FOCUS 1.2."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from exported_days import ODD_NAME, Days

from taximeter.settler.exports.focus import FOCUS

Level = Literal["Mandatory", "Conditional", "Recommended"]


class Spec(NamedTuple):
    """What the specification says of a column."""

    level: Level
    nullable: bool
    type: str


M, C, R = "Mandatory", "Conditional", "Recommended"
# FOCUS 1.2, section Columns: feature level, whether nulls are allowed, data type.
SPEC: dict[str, Spec] = {
    name: Spec(level, nullable, type)  # type: ignore[arg-type]
    for level, nullable, type, names in (
        (M, False, "Decimal", "BilledCost ContractedCost EffectiveCost ListCost"),
        (M, False, "Date/Time", "BillingPeriodEnd BillingPeriodStart"),
        (M, False, "Date/Time", "ChargePeriodEnd ChargePeriodStart"),
        (M, False, "String", "BillingAccountId BillingCurrency ChargeCategory InvoiceIssuerName"),
        (M, False, "String", "ProviderName PublisherName ServiceCategory ServiceName"),
        (M, True, "String", "BillingAccountName ChargeClass ChargeDescription PricingUnit"),
        (M, True, "Decimal", "PricingQuantity"),
        (R, False, "String", "ChargeFrequency ServiceSubcategory"),
        (R, True, "String", "AvailabilityZone InvoiceId"),
        (C, False, "String", "BillingAccountType"),
        (C, True, "Decimal", "CommitmentDiscountQuantity ConsumedQuantity ContractedUnitPrice"),
        (C, True, "Decimal", "ListUnitPrice PricingCurrencyContractedUnitPrice"),
        (C, True, "Decimal", "PricingCurrencyEffectiveCost PricingCurrencyListUnitPrice"),
        (C, True, "JSON", "SkuPriceDetails Tags"),
        (C, True, "String", "CapacityReservationId CapacityReservationStatus"),
        (C, True, "String", "CommitmentDiscountCategory CommitmentDiscountId"),
        (C, True, "String", "CommitmentDiscountName CommitmentDiscountStatus"),
        (C, True, "String", "CommitmentDiscountType CommitmentDiscountUnit ConsumedUnit"),
        (C, True, "String", "PricingCategory PricingCurrency RegionId RegionName ResourceId"),
        (C, True, "String", "ResourceName ResourceType SkuId SkuMeter SkuPriceId"),
        (C, True, "String", "SubAccountId SubAccountName SubAccountType"),
    )
    for name in names.split()
}
# Of those that are present when a provider has what they are about: regions, resources,
# commitments, reservations and tags are nothing that we know.
ABSENT = re.compile("AvailabilityZone|InvoiceId|Tags|(CapacityRes|CommitmentD|Region|Resource).*")
TYPES = {"Decimal": {"money"}, "Date/Time": {"moment"}, "String": {"text"}, "JSON": {"json"}}


def test_every_column_of_the_specification_is_there_or_left_out_for_a_reason() -> None:
    assert len(SPEC) == 57
    ours = {column.name: column for column in FOCUS.columns}
    assert {name for name in SPEC if name not in ours} == {
        name for name in SPEC if ABSENT.fullmatch(name)
    }
    assert not [name for name in SPEC if SPEC[name].level == M and name not in ours]
    for name, column in ours.items():
        if name.startswith("x_"):
            continue
        assert column.type in TYPES[SPEC[name].type], name
        assert SPEC[name].nullable or not column.nullable, name
    # PascalCase, without abbreviations of ours, at most 50 characters; our own begin with x_.
    assert all(re.fullmatch(r"(x_)?([A-Z][a-z0-9]+)+", name) and len(name) <= 50 for name in ours)


async def test_rows_say_what_was_used_and_what_was_bought(days: Days) -> None:
    first = days.first
    await days.write(first)
    rows = days.table(first, "focus")
    usage = [row for row in rows if row["ChargeCategory"] == "Usage"]
    purchases = [row for row in rows if row["ChargeCategory"] == "Purchase"]
    given_back, bought = sorted(purchases, key=lambda row: row["BilledCost"])
    for row in rows:
        check_row(row)
    used = Decimal(2 * 1001 * sum(range(1, 31))) / 1000
    assert sum(row["PricingQuantity"] for row in usage) == used
    assert sum(row["EffectiveCost"] for row in rows) == used / 100
    assert sum(row["BilledCost"] for row in rows) == Decimal("23.50")
    assert sum(row["ConsumedQuantity"] for row in usage) == 60
    assert {row["BillingAccountId"] for row in usage} == {"acme", "zeta"}
    assert {row["SubAccountId"] for row in usage} == {"ann", "-bob"}
    assert {row["BillingCurrency"] for row in rows} == {"EUR"}
    assert {row["x_Model"] for row in usage} >= {ODD_NAME, "gpt-1"}
    assert (bought["BillingAccountId"], bought["BilledCost"]) == ("zeta", Decimal(25))
    assert (given_back["BilledCost"], given_back["PricingQuantity"]) == (Decimal("-1.5"), -1)
    line = days.lines(first, "focus")[0]
    assert line["ChargePeriodStart"] == f"{first}T00:00:00Z"
    assert re.fullmatch(r"\d{4}-\d\d-01T00:00:00Z", line["BillingPeriodEnd"])


def check_row(row: dict[str, Any]) -> None:
    """What the specification demands of each row that is no correction."""
    is_usage = row["ChargeCategory"] == "Usage"
    for name, spec in SPEC.items():
        if name in row and not spec.nullable:
            assert row[name] not in (None, ""), name
    for name in ("PricingQuantity", "PricingUnit", "SkuId", "SkuPriceId", "PricingCategory"):
        assert row[name] is not None, name
    for stem in ("List", "Contracted"):
        assert row[f"{stem}UnitPrice"] >= 0
        assert row[f"{stem}UnitPrice"] * row["PricingQuantity"] == row[f"{stem}Cost"]
    assert (row["ConsumedQuantity"] is None) == (row["ConsumedUnit"] is None) == (not is_usage)
    assert (row["SubAccountId"] is None) == (row["SubAccountType"] is None) == (not is_usage)
    assert row["ChargeFrequency"] in ({"Usage-Based"} if is_usage else {"One-Time", "Recurring"})
    if is_usage:
        assert row["BilledCost"] == 0
        assert row["PricingCurrencyEffectiveCost"] == row["PricingQuantity"]
    else:
        assert row["EffectiveCost"] == row["PricingCurrencyEffectiveCost"] == 0
    assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"]
    assert row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
    assert re.fullmatch(r"[A-Z]{3}", row["BillingCurrency"])
