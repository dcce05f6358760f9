"""Goes on for organisations with a credit line while Redis is away, within a journal on disk."""
