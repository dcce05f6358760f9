"""Credits on their way between accounts and pools, and numbered entries to the live side."""
