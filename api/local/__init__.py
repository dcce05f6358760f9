"""The whole system on one machine: what `taximeter dev` and `taximeter demo` run."""
