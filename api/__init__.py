"""The API, the command line and the embedded servers: the one place where everything is put together."""
