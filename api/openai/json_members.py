"""Finds the places of a JSON object's members, so that some can be replaced and the rest goes on as
it came.

A body that is parsed and written anew is no longer what the caller sent: numbers lose digits,
escapes change. Here only the outermost members are told apart, and each keeps its own text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


class NotAnObject(ValueError):
    """The text is not one JSON object; the message says why."""


def _refuse_constant(constant: str) -> Any:
    raise NotAnObject(f"{constant} is not a JSON number")


_SPACE = re.compile(r"[ \t\n\r]*")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise NotAnObject(f"the name {name[:64]!r} stands twice in an object")
            seen.add(name)
    return members


# Inside these we read what a request may cost, so that no name in them may stand twice either.
_LOOKED_INTO = frozenset(("tools", "stream_options"))
# One of each for all requests: making a new one every time costs more than using it.
_value_at = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
_distinct_value_at = json.JSONDecoder(
    parse_constant=_refuse_constant, object_pairs_hook=_distinct
).raw_decode
_skip = _SPACE.match
_encode = json.JSONEncoder(separators=(",", ":")).encode


class JsonObject:
    """The parsed members of an object, and the text that each of them had."""

    __slots__ = ("_members", "_text", "values")

    def __init__(self, text: str, values: dict[str, Any], members: dict[str, str]) -> None:
        self._text = text
        self._members = members
        self.values = values

    def text(self, changes: Mapping[str, object]) -> str:
        """The object with these members written anew and those that are None left out. What is not
        named keeps its text, and everything does when nothing changes.
        """
        if not changes:
            return self._text
        members = {name: text for name, text in self._members.items() if name not in changes}
        for name, value in changes.items():
            if value is not None:
                members[name] = f"{_encode(name)}:{_encode(value)}"
        return "{" + ",".join(members.values()) + "}"


def parse_object(text: str) -> JsonObject:
    """Raises ValueError for anything that is not one object whose names differ, by more than case.

    A name that stands twice is refused, because two parsers may choose differently: the one here
    would price one model while the provider runs the other. Some take `N` for `n`.
    """
    at = _after_space(text, 0)
    if text[at : at + 1] != "{":
        raise NotAnObject("it must be a JSON object")
    values: dict[str, Any] = {}
    members: dict[str, str] = {}
    seen: dict[str, str] = {}
    at = _after_space(text, at + 1)
    if text[at : at + 1] == "}":
        at += 1
    else:
        while True:
            start = at
            if text[at : at + 1] != '"':
                raise NotAnObject(f"a name in double quotes is missing at character {at}")
            name, at = _value_at(text, at)
            at = _after_space(text, at)
            if text[at : at + 1] != ":":
                raise NotAnObject(f"a colon is missing at character {at}")
            if (other := seen.setdefault(name.casefold(), name)) != name:
                raise NotAnObject(f"{other[:64]!r} and {name[:64]!r} differ only by case")
            if name in values:
                raise NotAnObject(f"the name {name[:64]!r} stands twice")
            value_at = _distinct_value_at if name in _LOOKED_INTO else _value_at
            try:
                values[name], at = value_at(text, _after_space(text, at + 1))
            except RecursionError:
                raise NotAnObject("it is nested too deeply") from None
            members[name] = text[start:at]
            at = _after_space(text, at)
            sign = text[at : at + 1]
            at += 1
            if sign == "}":
                break
            if sign != ",":
                raise NotAnObject(f"a comma is missing at character {at - 1}")
            at = _after_space(text, at)
    if _after_space(text, at) != len(text):
        raise NotAnObject(f"there is more after its end at character {at}")
    return JsonObject(text, values, members)


def object_of(content: bytes) -> dict[str, Any]:
    """Read an answer that should be a JSON object; empty for one that is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _after_space(text: str, at: int) -> int:
    found = _skip(text, at)
    assert found is not None, "the pattern also matches nothing"
    return found.end()
