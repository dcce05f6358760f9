"""The peer of the LLM route: the LiteLLM proxy from the package index, in an environment of its
own.

One worker, its own mock response, no database, no budgets: it does less than the route does.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Final

import httpx

from bench.harness import BenchFailed
from bench.http_load import post
from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.embedded.spawn import Child, spawn

REQUIREMENT: Final = "litellm[proxy]"
INSTALL_S_MAX: Final = 600.0
READY_S_MAX: Final = 120.0
STOP_S_MAX: Final = 15.0
MODEL: Final = "gpt-4o-mini"


@asynccontextmanager
async def litellm_proxy(data_dir: Path) -> AsyncIterator[tuple[str, list[Callable[[], bytes]]]]:
    """A running proxy: its URL and a maker of requests. The installation stays for the next run."""
    program = await asyncio.to_thread(_installed, data_dir / "litellm")
    key = f"sk-{secrets.token_hex(24)}"
    config = data_dir / "litellm" / "config.json"
    # JSON is YAML. The key is one of this run, and the file is readable by its owner alone.
    config.touch(mode=0o600)
    config.write_text(json.dumps(_config(key)), encoding="utf-8")
    port = free_port()
    url = f"http://{LOOPBACK}:{port}/v1/chat/completions"
    log_path = data_dir / "litellm" / "proxy.log"
    arguments = ["--config", str(config), "--host", LOOPBACK, "--port", str(port)]
    with log_path.open("wb") as log:
        child = spawn(
            [str(program), *arguments, "--num_workers", "1"],
            log=log,
            death_signal=SIGKILL,
            environment={
                "PATH": f"{program.parent}:{os.environ.get('PATH', os.defpath)}",
                "HOME": str(data_dir / "litellm"),
                "LITELLM_LOG": "ERROR",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            },
        )
    try:
        await _wait_until_up(f"http://{LOOPBACK}:{port}/health/liveliness", child, log_path)
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]})
        request = post(url, body.encode(), {"Authorization": f"Bearer {key}"})
        yield url, [lambda: request]
    finally:
        await asyncio.to_thread(_stop, child)
        config.unlink()


def _config(key: str) -> dict[str, object]:
    model = {"model": f"openai/{MODEL}", "api_key": "unused", "mock_response": "Four words here."}
    return {
        "model_list": [{"model_name": MODEL, "litellm_params": model}],
        "litellm_settings": {"telemetry": False},
        "general_settings": {"master_key": key},
    }


def _installed(folder: Path) -> Path:
    """The proxy's program; installs it with pip when it is not there, a matter of minutes."""
    program = folder / "venv" / "bin" / "litellm"
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder / "venv")],
        [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", REQUIREMENT],
    ):
        finished = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False
        )
        if finished.returncode != 0:
            raise BenchFailed(f"{REQUIREMENT} could not be installed: {finished.stderr[-1_000:]}")
    return program


async def _wait_until_up(url: str, child: Child, log_path: Path) -> None:
    end = time.monotonic() + READY_S_MAX
    async with httpx.AsyncClient(timeout=5.0) as client:
        while time.monotonic() < end and child.poll() is None:
            try:
                if (await client.get(url)).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)
    raise BenchFailed(f"the LiteLLM proxy does not answer; see {log_path}")


def _stop(child: Child) -> None:
    child.send_signal(SIGTERM)
    try:
        child.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
