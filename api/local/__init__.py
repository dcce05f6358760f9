"""Runs the whole system on one machine, for `taximeter dev` and `taximeter demo`."""
