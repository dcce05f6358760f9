"""The API on real sockets, for the attacks on it."""

from __future__ import annotations

from support.api_world import api_options, payments, stores, world

__all__ = ["api_options", "payments", "stores", "world"]
