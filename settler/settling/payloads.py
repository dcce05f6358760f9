"""Reads what a charge was for, from the payload of an event to columns that Postgres accepts for
certain.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Final, NamedTuple

from taximeter.meter.wire.payload_codes import plain

DEFAULT_SERVICE_TYPE = "llm_inference"
UNREADABLE_SERVICE_TYPE = "unreadable"
SERVICE_TYPE_MAX = 64
SERVICE_NAME_MAX = 255

_HEAD = re.compile(
    rf'\{{"type":"([^"\\]{{1,{SERVICE_TYPE_MAX}}})","name":"([^"\\]{{0,{SERVICE_NAME_MAX}}})"'
)
_CACHED: Final = 65_536
_HUGE_EXPONENT = re.compile(r"[eE][+-]?\d{4,}")


class Purpose(NamedTuple):
    """Service columns and the metadata as JSON text that `jsonb` takes."""

    service_type: str
    service_name: str
    metadata: str


def split_payload(payload: str) -> tuple[tuple[str, str], str] | None:
    """((type, name), metadata) of a payload as our own clients write it, unread: whether the
    metadata is JSON is for others to judge. None for one of another shape. Also for a payload whose
    backslashes are doubled: there are none in type and name of this shape.
    """
    head, found, rest = payload.partition(',"meta":')
    service = _service(head)
    if service is None or not found or rest[:1] != "{" or rest[-2:] != "}}":
        return None
    return service, rest[:-1]


@lru_cache(_CACHED)
def _service(head: str) -> tuple[str, str] | None:
    """Type and name of a payload up to its metadata. Remembered: the same ones come again."""
    found = _HEAD.fullmatch(head)
    return None if found is None else (found[1], found[2])


def read_payload(payload: str) -> Purpose:
    """Read a payload; never raises. An unreadable one loses nothing: its raw text becomes the
    metadata.

    Postgres refuses JSON that Python takes (NaN, the character U+0000, half a surrogate pair,
    numbers beyond `numeric`), and one refused row would fail a whole batch. Such payloads count as
    unreadable here.
    """
    payload = plain(payload)  # A release before this one ended a hold that this one had opened.
    if not payload:
        return Purpose(DEFAULT_SERVICE_TYPE, "", "{}")
    try:
        return _read(payload)
    except (ValueError, RecursionError):
        return unreadable(payload)


def unreadable(payload: str) -> Purpose:
    """The same charge with its payload kept as text, for people to read."""
    text = payload.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return Purpose(UNREADABLE_SERVICE_TYPE, "", json.dumps({"unreadable_payload": text}))


def _read(payload: str) -> Purpose:
    parts = split_payload(payload)
    # The metadata text goes to Postgres as it is, so parsing it is only a check.
    if parts is not None and isinstance(_strict_json(parts[1]), dict):
        return Purpose(*parts[0], parts[1])
    whole = _strict_json(payload)
    if not isinstance(whole, dict):
        raise ValueError("a payload is a JSON object")
    service_type = whole.get("type", DEFAULT_SERVICE_TYPE)
    service_name = whole.get("name", "")
    metadata_value = whole.get("meta", {})
    if not isinstance(service_type, str) or not isinstance(service_name, str):
        raise ValueError("type and name are text")
    if not 1 <= len(service_type) <= SERVICE_TYPE_MAX or len(service_name) > SERVICE_NAME_MAX:
        raise ValueError("type and name are of limited length")
    if not isinstance(metadata_value, dict):
        raise ValueError("meta is an object")
    return Purpose(service_type, service_name, json.dumps(metadata_value, separators=(",", ":")))


def _strict_json(text: str) -> object:
    """Parse, or raise ValueError where Postgres would refuse."""
    parsed: object = _DECODER.decode(text)
    # Escapes are rare, so the slower look at every string is only taken when one could do harm.
    if "\\u" in text:
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
        if "\\u0000" in json.dumps(parsed):
            _refuse_null_character(parsed)
    return parsed


def _refuse_null_character(value: object) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("jsonb cannot hold the character U+0000")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _refuse_null_character(key)
            _refuse_null_character(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_null_character(inner)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _bounded_float(text: str) -> float:
    if _HUGE_EXPONENT.search(text):
        raise ValueError("the exponent is beyond what numeric holds")
    return float(text)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_bounded_float)
