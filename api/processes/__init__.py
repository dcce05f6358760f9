"""Puts the processes together that are run: stores, applications and servers."""
