"""`python -m taximeter.api`: the command line, for whoever starts it as a child process."""

from __future__ import annotations

from taximeter.api.cli import main

if __name__ == "__main__":
    main()
