"""The process that runs the settler: its loops, its daily jobs and its heartbeat."""
