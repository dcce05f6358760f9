"""The last release, as its commit has it: `.ci/last-release` names both."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from pathlib import Path
from signal import SIGTERM
from typing import Final

import pytest
from support.packages import install, make_environment, run

from taximeter.api.embedded.spawn import spawn
from taximeter.api.local.process import LocalProcess

ROOT: Final = Path(__file__).parents[2]
VERSION, COMMIT = (ROOT / ".ci" / "last-release").read_text("utf-8").split()


def last_release(folder: Path) -> Path:
    """Its files, in an empty folder. Skips, and says why, where the history does not go back to it:
    a shallow clone, or no clone at all.
    """
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if known.returncode != 0:
        pytest.skip(
            f"UPGRADES ARE NOT TESTED: the history here does not reach back to {VERSION}"
            f" ({COMMIT[:12]}); git fetch --unshallow brings it"
        )
    packed = folder.with_suffix(".tar")
    subprocess.run(
        ["git", "archive", f"--output={packed}", COMMIT], cwd=ROOT, check=True, timeout=120
    )
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    packed.unlink()
    return folder


def installed(source: Path, folder: Path) -> Path:
    """The interpreter of an environment of its own, with its wheel: built here, beside what this
    environment has of other packages.
    """
    built = run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("taximeter-*.whl")
    python = make_environment(folder / "venv")
    done = install(python, "--no-deps", wheel)
    assert done.returncode == 0, done.stderr
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    # Own packages first; ours is installed by a finder there, which a .pth in a .pth does not run.
    (site / "shared.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    # Found beside the interpreter.
    (python.parent / "dbmate").symlink_to(Path(sys.executable).with_name("dbmate"))
    where = run(python, "-P", "-c", "import taximeter.meter as m; print(m.__file__)").stdout
    assert where.startswith(str(folder)), where
    return python


class ReleaseProcess(LocalProcess):
    """One of our processes, of the release of this interpreter."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        log_path: Path,
        python: Path,
        # The clone has a package of our name as well, and may be where this runs.
        module: tuple[str, ...] = ("-P", "-m", "taximeter.api"),
    ) -> None:
        super().__init__(name, arguments, environment, log_path)
        self._command = [str(python), *module, *arguments]

    def start(self) -> None:
        """Start it; it ends with this process."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with self.log_path.open("ab") as log:
            self._child = spawn(
                self._command,
                log=log,
                death_signal=SIGTERM,
                environment={**kept, **self._environment},
            )
