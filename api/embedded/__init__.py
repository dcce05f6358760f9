"""Real Valkey and Postgres without Docker: our own child processes, on free loopback ports, under one data folder."""
