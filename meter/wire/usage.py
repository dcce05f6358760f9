"""Says what a charge was for, and writes it as the payload that travels with the charge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.limits import PAYLOAD_BYTES_MAX

# One encoder for all: json.dumps would make a new one for every charge.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


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
