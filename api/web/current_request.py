"""Knows the id of the request that is being answered, for whatever is written on its behalf."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

CURRENT_ID: Final[ContextVar[str | None]] = ContextVar("taximeter_request_id", default=None)


def current_request_id() -> str | None:
    """The id of the request that is being answered; None outside of one."""
    return CURRENT_ID.get()
