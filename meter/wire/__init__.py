"""Keeps what scripts and Python agree on: keys, arguments, codes, records, limits, errors."""
