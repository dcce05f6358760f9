"""Finds who pays, from what LiteLLM knows of the caller's key, team and user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from taximeter.meter.wire.errors import InvalidRequest

_FIELDS = ("org_id", "team_id", "user_id", "end_user_id", "key_alias", "team_alias")
_METADATA = {
    "key.metadata": "metadata",
    "team.metadata": "team_metadata",
    "org.metadata": "organization_metadata",
}
_SOURCE = re.compile(
    rf"key\.(?:{'|'.join(_FIELDS)})|(?:key|team|org)\.metadata\.[\w.-]+|always:\S+|header:[\w-]+"
)


def sources(text: str) -> list[str]:
    """The sources that a setting names, in their order."""
    return [part.strip() for part in text.split(",") if part.strip()]


def check_sources(text: str, variable: str) -> None:
    """Raise InvalidRequest naming `variable` unless every source is one that can be read."""
    found = sources(text)
    if not found or not all(_SOURCE.fullmatch(one) for one in found):
        raise InvalidRequest(
            variable,
            f"a comma separated list of key.({'|'.join(_FIELDS)}), (key|team|org).metadata.<name>,"
            " header:<name> and always:<id>",
        )


def find(text: str, key: Any, headers: Mapping[str, str]) -> str | None:
    """The first source that names somebody, or None.

    `key` is LiteLLM's UserAPIKeyAuth. A header is the caller's word: it is read only where the
    operator says so, and then a gateway in front must set it.
    """
    for source in sources(text):
        value = _read(source, key, headers)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return str(value)
    return None


def _read(source: str, key: Any, headers: Mapping[str, str]) -> object:
    if source.startswith("always:"):
        return source.removeprefix("always:")
    if source.startswith("header:"):
        return headers.get(source.removeprefix("header:").lower())
    place, _, name = source.rpartition(".")
    if place == "key":
        return getattr(key, name, None)
    place, _, name = source.partition(".metadata.")
    metadata = getattr(key, _METADATA[f"{place}.metadata"], None)
    return metadata.get(name) if isinstance(metadata, Mapping) else None
