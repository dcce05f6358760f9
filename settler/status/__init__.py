"""Tells how each part of the system is: for status pages, health checks and alarms."""
