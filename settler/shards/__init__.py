"""Opens, judges, rebuilds and reshards shards."""
