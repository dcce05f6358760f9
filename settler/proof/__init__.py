"""Proves the books while everything runs."""
