"""Walks an organisation through its journey, sends traffic, and proves the books."""
