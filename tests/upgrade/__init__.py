"""Holds this release to what the last one may rely on (docs/releases.md)."""
