"""What scripts and Python agree on: keys, arguments, codes, records, limits, errors."""
