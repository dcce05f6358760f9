"""Reads the settings of prices and estimates, for every process that prices what models use."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from taximeter.api.settings.plans import PLANS
from taximeter.settler.books.settings import StoreSettings


def _as_written(value: object) -> object:
    """A factor as it stands in the JSON, and not the float that was made of it."""
    return repr(value) if isinstance(value, float) else value


Factor = Annotated[Decimal, BeforeValidator(_as_written), Field(ge=0, le=1000)]


class PriceSettings(StoreSettings):
    """What a model call costs, and how much of an estimate is held."""

    output_tokens_assumed: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="Output to hold for if a request does not limit it (at most the ceiling).",
    )
    estimate_bytes_per_token: int = Field(
        default=1,
        ge=1,
        le=16,
        description="Bytes of prompt text that are held for as one token: with 1 no prompt can be "
        "longer than its estimate, 3 is closer to the truth for most languages.",
    )
    estimate_cap_credits: Decimal | None = Field(
        default=None,
        gt=0,
        le=1_000_000_000,
        decimal_places=3,
        description="Most credits that are held for one request, however much output it allows.",
    )
    estimate_share: Decimal | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Largest part of what a user has that is held for one request (prices.md).",
    )
    estimate_floor_credits: Decimal = Field(
        default=Decimal(1),
        ge=Decimal("0.001"),
        le=1_000_000,
        decimal_places=3,
        description="What the share never cuts a hold below: with less left, a request is refused.",
    )
    credits_per_dollar: Decimal = Field(
        default=Decimal(100), gt=0, le=1_000_000, description="Credits that one dollar buys."
    )
    markup: Decimal = Field(
        default=Decimal(1), ge=0, le=1000, description="Factor on the list price of a model."
    )
    markup_by_plan: dict[str, Factor] = Field(
        default_factory=dict,
        description='Factors for single plans instead, as JSON: `{"trial": 1.5}`.',
    )
    markup_by_power_level: dict[str, Factor] = Field(
        default_factory=dict,
        description='Further factors by the power level of a request: `{"precision": "1.2"}`.',
    )
    power_level_by_plan: dict[str, str] = Field(
        default_factory=dict,
        description="Power level of the LLM requests that organisations of a plan pay, where their "
        'route has none, as JSON: `{"enterprise": "precision"}`. What a request itself says never '
        "decides its price.",
    )
    price_file: Path | None = Field(
        default=None,
        description="TOML or JSON file of the operator's own prices (prices.md).",
    )
    price_file_check_s: float = Field(
        default=5.0,
        ge=0.05,
        le=3600.0,
        description="How often that file, and the price lists that were taken over, are looked at; "
        "what has changed is read without a restart.",
    )
    price_lists_file: Path | None = Field(
        default=None,
        description="File that `taximeter prices export` wrote: the price lists that were taken "
        "over, for a process without a database. With one, it is read instead of the database.",
    )
    price_age_max_days: int = Field(
        default=30,
        ge=1,
        le=3650,
        description="An alarm when the price list in force is older than this: in the log once a "
        "day, in `taximeter check`, `/readyz` and the status.",
    )
    unknown_model: Literal["reject", "default", "free"] = Field(
        default="reject", description="What a model without a price costs."
    )
    default_input_usd_per_million: Decimal = Field(
        default=Decimal(10), ge=0, le=100_000, description="Price of unknown models, if `default`."
    )
    default_output_usd_per_million: Decimal = Field(
        default=Decimal(30), ge=0, le=100_000, description="Price of unknown models, if `default`."
    )
    pricing_provider: str | None = Field(
        default=None,
        description="Provider whose price list is used; by default found by the model.",
    )

    @field_validator("markup_by_plan", "power_level_by_plan")
    @classmethod
    def _plans_exist(cls, factors: dict[str, Any]) -> dict[str, Any]:
        for plan in factors:
            if plan not in PLANS:
                raise ValueError(f"must name plans: {', '.join(PLANS)}")
        return factors
