"""Tells people and programs what has happened: notices, written in the transaction of the fact."""
