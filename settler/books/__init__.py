"""Keeps what all of the settler stands on: both stores, their settings and the watermarks."""
