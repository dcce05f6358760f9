"""Reads what redis-py hands on: bytes, text, numbers or nothing."""

from __future__ import annotations


def text_of(value: object) -> str:
    """A value of Redis as text; empty for None."""
    if isinstance(value, bytes):
        return value.decode()
    return "" if value is None else str(value)
