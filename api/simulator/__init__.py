"""A simulated LLM provider, plainly labelled as one."""
