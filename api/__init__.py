"""Puts everything together: API, command line and embedded servers."""
