"""The server's pinned packages have wheels for every interpreter that we promise. Nothing is run on
those that are not here: CI has one interpreter.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
from support.packages import run

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")
PLATFORM = f"{platform.machine()}-manylinux_2_28"
pytestmark = [pytest.mark.slow, pytest.mark.whole]


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_every_pinned_package_has_a_wheel(version: str, tmp_path: Path) -> None:
    if not UV.exists():
        pytest.skip("WHEELS OF OTHER INTERPRETERS ARE NOT TESTED: uv is not installed")
    done = run(
        *(UV, "pip", "install", "--dry-run", "--no-deps", "--only-binary", ":all:"),
        *("--python-version", version, "--python-platform", PLATFORM, "--target", tmp_path),
        *("--requirement", ROOT / ".ci" / "constraints-server.txt"),
    )
    assert done.returncode == 0, done.stderr
    assert "Would install" in done.stderr
