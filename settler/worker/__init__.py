"""Runs the settler: its loops, its daily jobs and its heartbeat, in one process."""
