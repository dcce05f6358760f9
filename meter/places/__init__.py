"""Where a key lives: which server of one, of a primary behind Sentinel, or of a cluster."""
