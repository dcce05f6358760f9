"""Prepaid credits for LLM gateways. The packages are links to the folders of the same names beside this one."""
