"""Puts stores back to backups and counts what is missing, by a log of its own."""
