"""Builds the wheel of this checkout, from a copy so that nothing is left in the clone, and by way
of the source distribution, so that this holds everything as well.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "lua", "meter", "migrations", "settler")


def shared_wheel(factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built by whoever of the processes of a run asks for it first."""
    root = folder_of_run(factory)
    folder = root / "wheel"
    with (root / "wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = next(folder.glob("*.whl"), None)
        if built is None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            built = build_wheel(factory.mktemp("source"), folder)
    return built


def folder_of_run(factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a run share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def build_wheel(source: Path, target: Path) -> Path:
    """The wheel, made in the empty folder `target` with the pinned setuptools, without network."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # Links to the packages, and no copies of them.
    shutil.copytree(
        ROOT / "taximeter",
        source / "taximeter",
        symlinks=True,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            source / package,
            ignore=shutil.ignore_patterns("__pycache__", "node_modules"),
        )
    finished = subprocess.run(
        [
            sys.executable,
            *("-m", "build", "--no-isolation"),
            *("--outdir", str(target), str(source)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (built,) = target.glob("*.whl")
    return built
