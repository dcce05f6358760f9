"""Holds the parts of one running API, and hands them to its routes."""
