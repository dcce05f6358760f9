"""Takes operations from a shard's queue to a script call, and its reply back to their callers."""
