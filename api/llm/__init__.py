"""Serves the LLM route: holds, calls upstream, relays, charges."""

from __future__ import annotations
