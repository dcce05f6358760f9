"""From the event stream to rows in Postgres, each event once."""
