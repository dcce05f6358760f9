"""Real Valkey and Postgres without Docker: child processes of ours, under one data folder."""
