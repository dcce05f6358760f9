"""Finds where a key lives: on the one server, on the primary behind Sentinel, or on a node of a
cluster.
"""
