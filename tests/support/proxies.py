"""Gateways and reverse proxies of Debian as processes, with configurations of the pages."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGKILL

import httpx
import pytest

from support.waiting import eventually
from taximeter.api.embedded.machine import LOOPBACK
from taximeter.api.embedded.spawn import spawn

PROGRAMS = {
    name: found
    for name, place in (("nginx", "/usr/sbin/nginx"), ("caddy", "/usr/bin/caddy"))
    if (found := shutil.which(name) or shutil.which(place))
}

# What surrounds conf.d: without root, nginx writes its temporary files where it may.
NGINX_MAIN = """
worker_processes 1;
error_log stderr;
pid {folder}/pid;
daemon off;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/taximeter.conf;
}}
"""


def program_of(name: str, package: str) -> str:
    if name not in PROGRAMS:
        pytest.skip(f"NOT TESTED on {name}: install Debian's package {package}")
    return PROGRAMS[name]


def rewired(text: str, ports: Mapping[str, str]) -> str:
    """The configuration with this test's addresses in place of the page's."""
    for address, ours in ports.items():
        assert address in text
        text = text.replace(address, ours)
    return text


@asynccontextmanager
async def running(*command: str, folder: Path, port: int) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway as a process of its own, once it listens, and a caller of it."""
    with (folder / "log").open("wb") as log:
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        child = spawn(command, log=log, death_signal=SIGKILL, environment=environment)
    try:

        async def listens() -> bool:
            assert child.poll() is None, (folder / "log").read_text()
            try:
                _, writer = await asyncio.open_connection(LOOPBACK, port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens, within_s=60, what=f"{command[0]} on its port")
        url = f"http://{LOOPBACK}:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
            yield client
    finally:
        child.terminate()
        child.wait()
