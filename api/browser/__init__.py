"""Serves people with a browser: the pages of the console, and signing in and out."""
