"""Computes what a load takes on paper, from figures that were measured: `make growth`."""
