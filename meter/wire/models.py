"""What goes into the meter and what comes out, as plain records. Amounts are millicredits."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.limits import PAYLOAD_BYTES_MAX

# One encoder for all: json.dumps would make a new one for every charge.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode

State = Literal["open", "committed", "charged", "released", "expired", "foreign"]
"""`foreign`: the id is in use by another user, and what became of it there is not told."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a charge was for. It travels with the event and becomes a row of
    credit_usage_attribution.
    """

    service_type: str = "llm_inference"
    service_name: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)

    def payload(self) -> str:
        """Compact JSON on one line, at most PAYLOAD_BYTES_MAX bytes. Raises InvalidRequest."""
        try:
            text = _encode(
                {"type": self.service_type, "name": self.service_name, "meta": dict(self.metadata)}
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest("usage", f"JSON ({error})") from error
        if len(text) > PAYLOAD_BYTES_MAX:
            raise InvalidRequest(
                "usage", f"at most {PAYLOAD_BYTES_MAX} bytes of JSON, not {len(text)}"
            )
        return text

    @classmethod
    def of_payload(cls, text: str) -> Usage | None:
        """What `payload` wrote, or None when it is none of that."""
        try:
            fields = json.loads(text)
            return cls(str(fields["type"]), str(fields["name"]), dict(fields["meta"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class LoadedAccount:
    """An account as Postgres has it: both figures must be read in one snapshot, or a relayed entry
    is lost or doubled.
    """

    available: int
    applied: int


Loader = Callable[[str, str], Awaitable[LoadedAccount | None]]
"""(org_id, user_id) -> the account, or None when Postgres knows none."""


@dataclass(frozen=True, slots=True)
class Balance:
    """The live balance: what may be reserved now, and what open holds keep. Available may be
    negative after a late commit.
    """

    available: int
    held: int


class Receipt(NamedTuple):
    """What became of a request id, and the account's live balance after it (now, for a replay)."""

    request_id: str
    state: State
    reserved: int
    charged: int
    available: int
    held: int
    replayed: bool = False
    late: bool = False
