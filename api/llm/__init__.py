"""The LLM route: hold, call upstream, relay, charge."""

from __future__ import annotations
