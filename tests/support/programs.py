"""A program of a page, run as a reader would run it."""

from __future__ import annotations

import os
import subprocess
import sys


def output_of(program: str, redis_url: str) -> str:
    """What it prints, with the meter on this Redis. It must end well. Blocks until it has."""
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TAXIMETER_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
