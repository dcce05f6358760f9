"""Speaks HTTP for the admin API: shapes of JSON, errors, limits and repeats."""
