"""Checks of single fields of a request body, each with a refusal that names field and limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taximeter.api.web.errors import ApiError

LABEL_CHARACTERS_MAX = 64


def invalid(field: str, limit: str) -> ApiError:
    """422 that names the field and what it must be."""
    return ApiError(
        422, f"{field}: {limit}", details={"fields": [{"field": field, "message": limit}]}
    )


def count(body: Mapping[str, Any], name: str, highest: int) -> int | None:
    """A whole number from 1, or None if the field is not there. Raises ApiError 422."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        raise invalid(name, f"must be a whole number from 1 to {highest}")
    return value


def label(body: Mapping[str, Any], name: str) -> str | None:
    """Short text that travels with the charge. Raises ApiError 422."""
    value = body.get(name)
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or len(value) > LABEL_CHARACTERS_MAX
        or not (value.isascii() and value.isprintable())
    ):
        raise invalid(name, f"must be printable ASCII, at most {LABEL_CHARACTERS_MAX} characters")
    return value
