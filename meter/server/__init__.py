"""Finds out what a Redis server is before it is used: its identity, durability and access."""
