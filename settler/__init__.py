"""Settles what the meter charged: from the event streams in Redis into the books in Postgres,
exactly once.
"""

from __future__ import annotations
