"""Takes events from the stream to rows in Postgres, each event once."""
