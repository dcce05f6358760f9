"""Keeps, follows and compares price lists."""
