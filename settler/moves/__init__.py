"""Moves credits between accounts and pools, and brings numbered entries to the live side."""
