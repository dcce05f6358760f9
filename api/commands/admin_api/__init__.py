"""Does over HTTP what the admin API does: the groups of `taximeter admin` that need no database."""
