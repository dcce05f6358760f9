"""Taximeter's client: hold, price and charge LLM requests against live balances in Redis."""

from __future__ import annotations

from taximeter.meter.client import Meter
from taximeter.meter.hold import Hold
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.balance import Balance, LoadedAccount, Loader
from taximeter.meter.wire.errors import (
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
from taximeter.meter.wire.hold_record import Asker
from taximeter.meter.wire.receipt import Receipt
from taximeter.meter.wire.usage import Usage

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
