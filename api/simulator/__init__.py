"""Simulates an LLM provider, plainly labelled as simulated."""
