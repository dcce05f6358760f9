"""Says what a charge was for, and writes it as the payload that travels with the charge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.limits import PAYLOAD_BYTES_MAX
from taximeter.meter.wire.payload_codes import plain

# One encoder for all: json.dumps would make a new one for every charge.
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)
_quoted = json.encoder.encode_basestring_ascii


def _pieces_by_encoder(value: object, _: int) -> Iterable[str]:
    return (_encoder.encode(value),)


def _make_pieces() -> Callable[[object, int], Iterable[str]]:
    """What JSONEncoder.encode makes anew for every value, made once. Some Pythons have none."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _pieces_by_encoder
    pieces: Callable[[object, int], Iterable[str]] = make(
        *(None, _encoder.default, _quoted, None, ":", ",", False, False, False)
    )
    return pieces


_pieces = _make_pieces()


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
        metadata = self.metadata
        try:
            if type(metadata) is not dict:
                metadata = dict(metadata)
            if type(self.service_type) is type(self.service_name) is str:
                # As the encoder would write it, without asking for each name.
                text = (
                    f'{{"type":{_quoted(self.service_type)},"name":{_quoted(self.service_name)}'
                    f',"meta":{"".join(_pieces(metadata, 0))}}}'
                )
            else:
                fields = {"type": self.service_type, "name": self.service_name, "meta": metadata}
                text = _encoder.encode(fields)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest("usage", f"JSON ({error})") from error
        if len(text) > PAYLOAD_BYTES_MAX:
            raise InvalidRequest(
                "usage", f"at most {PAYLOAD_BYTES_MAX} bytes of JSON, not {len(text)}"
            )
        return text

    @classmethod
    def of_payload(cls, text: str) -> Usage | None:
        """What `payload` wrote, with codes or without, or None when it is none of that."""
        try:
            fields = json.loads(plain(text))
            return cls(str(fields["type"]), str(fields["name"]), dict(fields["meta"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
