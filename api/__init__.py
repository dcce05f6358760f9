"""API, command line and embedded servers: the one place where everything is put together."""
