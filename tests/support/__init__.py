"""What several tests need: a shard to call scripts on, and waiting on conditions."""
