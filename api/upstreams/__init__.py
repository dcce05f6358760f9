"""Knows the operator's providers: their addresses, their order, their failures."""
