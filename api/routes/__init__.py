"""Serves the admin API, one file per kind of thing; none knows another."""

from __future__ import annotations
