"""Taximeter's client: hold, price and charge LLM requests against live balances in Redis."""

from __future__ import annotations

from taximeter.meter.client import Meter
from taximeter.meter.errors import (
    AccountNotFound,
    AdmissionPaused,
    InsufficientCredits,
    InvalidRequest,
    MeterError,
    NotAllowed,
    NotConfirmed,
    OutcomeUnknown,
    Overloaded,
    RequestConflict,
    RequestReplayed,
    ShardFenced,
    StoreError,
    StoreOutOfMemory,
    StoreUnavailable,
    TooManyForAccount,
    TooManyHolds,
    UnknownHold,
    UnsafeServer,
)
from taximeter.meter.hold import Hold
from taximeter.meter.models import Balance, LoadedAccount, Loader, Receipt, Usage
from taximeter.meter.records import Asker
from taximeter.meter.settings import MeterSettings

__all__ = [
    "AccountNotFound",
    "AdmissionPaused",
    "Asker",
    "Balance",
    "Hold",
    "InsufficientCredits",
    "InvalidRequest",
    "LoadedAccount",
    "Loader",
    "Meter",
    "MeterError",
    "MeterSettings",
    "NotAllowed",
    "NotConfirmed",
    "OutcomeUnknown",
    "Overloaded",
    "Receipt",
    "RequestConflict",
    "RequestReplayed",
    "ShardFenced",
    "StoreError",
    "StoreOutOfMemory",
    "StoreUnavailable",
    "TooManyForAccount",
    "TooManyHolds",
    "UnknownHold",
    "UnsafeServer",
    "Usage",
]
