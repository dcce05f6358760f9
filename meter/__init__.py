"""Holds, prices and charges LLM requests against live balances in Redis: Taximeter's client."""

from __future__ import annotations

from taximeter.meter.client import Meter
from taximeter.meter.garbage import freeze_start
from taximeter.meter.hold import Hold
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.balance import Balance, LoadedAccount, Loader
from taximeter.meter.wire.errors import (
    AccountNotFound,
    AdmissionPaused,
    CellUnknown,
    InsufficientCredits,
    InvalidRequest,
    MeterError,
    NotAllowed,
    NotConfirmed,
    OrganizationMoves,
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
    WrongCell,
)
from taximeter.meter.wire.hold_record import Asker
from taximeter.meter.wire.many import MANY_MAX, Charge, Reserve
from taximeter.meter.wire.receipt import Receipt
from taximeter.meter.wire.usage import Usage

__all__ = [
    "MANY_MAX",
    "AccountNotFound",
    "AdmissionPaused",
    "Asker",
    "Balance",
    "CellUnknown",
    "Charge",
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
    "OrganizationMoves",
    "OutcomeUnknown",
    "Overloaded",
    "Receipt",
    "RequestConflict",
    "RequestReplayed",
    "Reserve",
    "ShardFenced",
    "StoreError",
    "StoreOutOfMemory",
    "StoreUnavailable",
    "TooManyForAccount",
    "TooManyHolds",
    "UnknownHold",
    "UnsafeServer",
    "Usage",
    "WrongCell",
    "freeze_start",
]
