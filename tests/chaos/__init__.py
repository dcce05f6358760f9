"""Chaos: real processes, real servers, a network that lies, and a history that is judged."""
