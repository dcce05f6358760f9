"""Runs the command line as `python -m taximeter.api`, for whoever starts it as a child process."""

from __future__ import annotations

from taximeter.api.cli import main

if __name__ == "__main__":
    main()
