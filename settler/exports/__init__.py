"""Writes what happened in a day, or in an organisation, as tables for other programs."""
