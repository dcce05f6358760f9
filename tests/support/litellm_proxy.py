"""The real LiteLLM proxy from the package index, in an environment of its own, with our wheel."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import httpx
import pytest

from support.packages import install, make_environment
from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.embedded.spawn import Child, spawn

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / ".ci" / "constraints-litellm.txt"
ENVIRONMENT = ROOT / ".data" / "litellm-venv"
READY_S_MAX = 120.0


def installed(wheel: Path) -> Path:
    """The interpreter of an environment with the pinned proxy and this wheel beside it.

    The pinned packages stay for the next run; the wheel is put there anew when it is another one.
    One process at a time does this. Skips, and says why, when the package index cannot be reached.
    """
    ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
    with ENVIRONMENT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _installed(wheel)


def _installed(wheel: Path) -> Path:
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "installed"
    wanted = hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        make_environment(ENVIRONMENT)
        # Most of it is never imported; what is, Python compiles then.
        done = install(
            python, "--no-deps", "--no-compile", "--require-hashes", "--requirement", PINS
        )
        assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
        if done.returncode != 0:
            pytest.skip(
                "NOT TESTED: the LiteLLM proxy could not be installed from the package index: "
                + done.stderr.strip()[-500:]
            )
        stamp.write_text(wanted)
    content = _content(wheel)
    beside = ENVIRONMENT / "wheel"
    if not beside.exists() or beside.read_text() != content:
        again = install(python, "--no-deps", "--force-reinstall", wheel)
        assert again.returncode == 0, again.stderr
        beside.write_text(content)
    return python


def _content(wheel: Path) -> str:
    """What is in it, without the times at which it was put there."""
    with zipfile.ZipFile(wheel) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
        return archive.read(record).decode()


@dataclass
class LiteLLM:
    """A running proxy."""

    url: str
    master_key: str
    child: Child
    log_path: Path

    def kill(self) -> None:
        """As a machine that goes away does: nothing is finished."""
        os.killpg(self.child.pid, SIGKILL)
        self.child.wait()


@contextmanager
def running(
    python: Path, folder: Path, config: Mapping[str, Any] | str, settings: Mapping[str, str]
) -> Iterator[LiteLLM]:
    """The proxy with this configuration, given as a document or as the text of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    config_path = folder / "config.yaml"
    # JSON is YAML.
    config_path.write_text(config if isinstance(config, str) else json.dumps(config))
    master_key = f"sk-{secrets.token_hex(24)}"
    port = free_port()
    log_path = folder / "proxy.log"
    with log_path.open("wb") as log:
        child = spawn(
            [
                *(str(python.with_name("litellm")), "--config", str(config_path)),
                *("--host", LOOPBACK, "--port", str(port), "--num_workers", "1"),
            ],
            log=log,
            death_signal=SIGKILL,
            environment={
                "PATH": f"{python.parent}:{os.environ.get('PATH', os.defpath)}",
                "HOME": str(folder),
                "LITELLM_MASTER_KEY": master_key,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                **settings,
            },
        )
    proxy = LiteLLM(f"http://{LOOPBACK}:{port}", master_key, child, log_path)
    try:
        _wait_until_up(proxy)
        yield proxy
    finally:
        if child.poll() is None:
            child.send_signal(SIGTERM)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                proxy.kill()


def _wait_until_up(proxy: LiteLLM) -> None:
    end = time.monotonic() + READY_S_MAX
    with httpx.Client(base_url=proxy.url, timeout=5, trust_env=False) as client:
        while time.monotonic() < end and proxy.child.poll() is None:
            try:
                if client.get("/health/liveliness").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    raise AssertionError(f"the proxy does not answer: {proxy.log_path.read_text()[-3000:]}")
