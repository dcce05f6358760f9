"""`make pythons` says what it could not run, and fails for what it ran and what failed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH on which no interpreter works and no mirror answers."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for version in ("3.12", "3.13", "3.14"):
        script(folder, f"python{version}", "exit 1")
    script(folder, "mmdebstrap", "echo 'I: starts' >&2; echo 'E: the mirror is away' >&2; exit 1")
    script(folder, "patchelf", "exit 1")
    return folder


def run(tools: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / ".ci" / "pythons", *words],
        env={
            "PATH": f"{tools}:{os.defpath}",
            "PYTHONS_FOLDER": str(tools / "pythons"),
            "WHEEL": "/nowhere.whl",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_cannot_be_had_is_said_and_is_no_failure(tools: Path) -> None:
    done = run(tools, "3.12", "3.14", "3.99")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"PYTHON {version} IS NOT RUN" for version in ("3.12", "3.14", "3.99")
    ]
    assert lines[2].endswith("no source of it is known")
    reason = "the mirror is away" if os.geteuid() == 0 else "needs root"
    # A keyring that this machine lacks is a reason as well.
    assert all(reason in line or "is missing" in line for line in lines[:2]), lines


def test_what_is_run_and_fails_is_a_failure(tools: Path) -> None:
    script(tools, "python3.14", '[ "$1" = -c ] && { echo 3.14.0; exit 0; }; echo broken; exit 1')
    done = run(tools, "3.14", "3.12")
    assert done.returncode == 1
    assert "broken" in done.stdout
    assert "PYTHON 3.14.0 FAILED" in done.stdout
    # The others are looked at all the same.
    assert "PYTHON 3.12 IS NOT RUN" in done.stdout


def test_a_word_that_is_none_is_refused(tools: Path) -> None:
    done = run(tools, "--everything")
    assert (done.returncode, "usage: " in done.stderr) == (2, True)
