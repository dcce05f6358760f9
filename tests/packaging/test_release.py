"""`make release` builds what is handed out of one commit, and the same of the same commit."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from taximeter.api.commands import group
from taximeter.meter.wire.release import build, release

ROOT = Path(__file__).resolve().parents[2]
BUILT = "api/browser/built"
pytestmark = pytest.mark.slow


def git(clone: Path, *arguments: str) -> str:
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.com")
    done = subprocess.run(
        ["git", *who, *arguments],
        cwd=clone,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    if not (ROOT / ".git").exists():
        pytest.skip("RELEASES ARE NOT TESTED: this is no clone")
    made = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(ROOT), str(made))
    (made / ".venv").symlink_to(ROOT / ".venv")
    if not (ROOT / BUILT / "index.html").exists():
        pytest.skip("RELEASES ARE NOT TESTED: the console is not built here (make console)")
    # Of the same sources, so that it is not built once more.
    shutil.copytree(ROOT / BUILT, made / BUILT)
    (made / ".git" / "info" / "exclude").write_text(".venv\n")
    return made


def run(clone: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [".ci/release"], cwd=clone, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.whole
def test_one_commit_gives_one_set_of_files(clone: Path) -> None:
    first = run(clone)
    assert first.returncode == 0, first.stderr
    dist, commit = clone / "dist", git(clone, "rev-parse", "--short=12", "HEAD")
    assert f"of commit {commit}" in first.stdout
    version = release()
    assert {one.name for one in dist.iterdir()} == {
        f"taximeter-{version}-py3-none-any.whl",
        f"taximeter-{version}.tar.gz",
        f"taximeter-{version}-image.tar.gz",
        f"taximeter-chart-{version}.tgz",
        f"taximeter-{version}.cdx.json",
        "NOTES.md",
        "SHA256SUMS",
    }
    sums = dict(line.split()[::-1] for line in (dist / "SHA256SUMS").read_text().splitlines())
    for one in dist.iterdir():
        if one.name != "SHA256SUMS":
            assert sums.pop(one.name) == hashlib.sha256(one.read_bytes()).hexdigest()
    assert not sums
    with zipfile.ZipFile(dist / f"taximeter-{version}-py3-none-any.whl") as wheel:
        assert wheel.read("taximeter/meter/wire/build.txt").decode().strip() == commit
        assert b"CSP_NONCE" in wheel.read(f"taximeter/{BUILT}/index.html")
    with tarfile.open(dist / f"taximeter-{version}-image.tar.gz") as context:
        names = set(context.getnames())
    assert f"{BUILT}/index.html" in names
    assert not [one for one in names if one.startswith("api/console/")], "pages, and no sources"
    with tarfile.open(dist / f"taximeter-{version}.tar.gz") as sources:
        assert f"taximeter-{version}/taximeter/{BUILT}/index.html" in sources.getnames()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", (clone / "Dockerfile").read_text(), re.M):
        assert set(line.split()) <= names, line
    bom = json.loads((dist / f"taximeter-{version}.cdx.json").read_text())
    pinned = re.findall(r"^([\w.-]+)==", (clone / ".ci/constraints-server.txt").read_text(), re.M)
    assert sorted(one["name"] for one in bom["components"]) == sorted(pinned)
    assert f"# Taximeter {version}" in (dist / "NOTES.md").read_text()

    before = (dist / "SHA256SUMS").read_text()
    assert run(clone).returncode == 0
    assert (dist / "SHA256SUMS").read_text() == before


@pytest.mark.whole
def test_a_wheel_without_the_console_is_refused(clone: Path) -> None:
    pyproject = clone / "pyproject.toml"
    pyproject.write_text(re.sub(r'"built/[^"]*",? ?', "", pyproject.read_text()))
    git(clone, "commit", "--quiet", "--all", "--message", "forgets the pages")
    refused = run(clone)
    assert refused.returncode == 1
    assert refused.stderr == (
        "release: the wheel has no console: see [tool.setuptools.package-data] in pyproject.toml\n"
    )


def test_what_is_no_release_is_refused_and_says_why(clone: Path) -> None:
    git(clone, "tag", f"v{release()}")
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "one more")
    assert "is another commit: raise the version" in run(clone).stderr
    pyproject = clone / "pyproject.toml"
    pyproject.write_text(
        re.sub(r'^version = ".*"$', 'version = "9.9.9"', pyproject.read_text(), flags=re.M)
    )
    assert "the clone has changes" in run(clone).stderr
    git(clone, "commit", "--quiet", "--all", "--message", "a version that nobody has described")
    refused = run(clone)
    assert refused.returncode == 1
    assert refused.stderr == (
        "release: CHANGELOG.md has no section [9.9.9]: move what is unreleased there\n"
    )
    assert not (clone / "dist").exists()


def test_who_asks_for_the_version_is_told_the_build_too() -> None:
    said = CliRunner().invoke(group, ["--version"]).output
    assert said.endswith(f"version {release()} (build {build()})\n")
