"""The HTTP routes, one file per kind of thing."""

from __future__ import annotations
