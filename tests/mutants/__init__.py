"""Tests of the tests: bugs that are planted one at a time, and the tests that must notice."""
