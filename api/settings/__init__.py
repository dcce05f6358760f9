"""Reads the settings of the processes, from environment variables with the prefix TAXIMETER_."""
