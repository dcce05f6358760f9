"""Makes environments for tests, with uv: pip takes ten times as much of the processor. What uv
cannot install, as from an index that only pip is told of, pip does.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

INSTALL_S_MAX: Final = 480.0
_UV: Final = Path(sys.executable).with_name("uv")


def make_environment(folder: Path) -> Path:
    """An empty one, without pip, in place of what was there; its interpreter."""
    made = run(sys.executable, "-m", "venv", "--clear", "--without-pip", folder)
    assert made.returncode == 0, made.stderr
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path) -> subprocess.CompletedProcess[str]:
    """Packages, and options that both programs know; how it ended."""
    if _UV.exists():
        done = run(_UV, "pip", "install", "--quiet", "--python", python, *what)
        if done.returncode == 0:
            return done
    return pip(python, "install", "--quiet", *what)


def pip(python: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command of our own pip about this environment."""
    return run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python), *words
    )


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=INSTALL_S_MAX,
        check=False,
        cwd="/",
    )
