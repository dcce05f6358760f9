"""One wheel for all packaging tests, built from a copy so that nothing is left in the clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "lua", "meter", "migrations", "settler")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with the pinned setuptools and without network."""
    source = tmp_path_factory.mktemp("source")
    shutil.copy(ROOT / "pyproject.toml", source)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    target = tmp_path_factory.mktemp("wheel")
    finished = subprocess.run(
        [
            sys.executable,
            *("-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", str(target), str(source)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (built,) = target.glob("taximeter-*.whl")
    return built
