"""Runs real Valkey and Postgres without Docker, as child processes of ours in one data folder."""
