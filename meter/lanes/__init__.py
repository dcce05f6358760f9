"""From a shard's queue to a script call and its reply."""
