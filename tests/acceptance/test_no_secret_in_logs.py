"""No process of ours writes a secret anywhere, when all is well and when nothing is."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest
from redis.asyncio import Redis
from support.waiting import eventually

from taximeter.api.embedded.machine import free_port
from taximeter.api.local.process import LocalProcess, ProcessFailed

pytestmark = [pytest.mark.slow, pytest.mark.whole, pytest.mark.timeout(180)]

ENDS_S = 40.0


def canary(what: str) -> str:
    return f"canary-{what}-{secrets.token_hex(8)}"


CANARIES = {
    what: canary(what)
    for what in ("redis", "database", "key", "bearer", "cookie", "prompt", "upstream")
}


def with_login(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


def ended(process: LocalProcess) -> bool:
    try:
        process.check_alive()
    except ProcessFailed:
        return True
    return False


class Scene:
    """Processes and everything that they have written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[LocalProcess] = []

    def run(self, stack: ExitStack, command: str, **settings: str) -> LocalProcess:
        environment = {f"TAXIMETER_{name.upper()}": value for name, value in settings.items()}
        name = f"{len(self.processes)}-{command}"
        process = LocalProcess(name, command.split(), environment, self.folder / name)
        self.processes.append(process)
        process.start()
        stack.callback(process.stop)
        return process

    @property
    def written(self) -> Iterator[tuple[LocalProcess, str]]:
        for process in self.processes:
            yield process, process.log_path.read_text(encoding="utf-8", errors="replace")


async def test_no_log_has_a_secret(
    redis: Redis, redis_url: str, database_url: str, key_prefix: str, tmp_path: Path
) -> None:
    await redis.execute_command(
        *("ACL", "SETUSER", "canary", "on", f">{CANARIES['redis']}", "~*", "&*", "+@all")
    )
    good = {
        "redis_url": with_login(redis_url, "canary", CANARIES["redis"]),
        "arq_redis_url": with_login(redis_url, "canary", CANARIES["redis"]),
        "database_url": with_login(
            database_url, urlsplit(database_url).username or "postgres", CANARIES["database"]
        ),
        "key_prefix": key_prefix,
        "arq_queue": f"{key_prefix}:queue",
        "data_dir": str(tmp_path / "data"),
        "dev_mode": "1",
        "upstream_url": f"http://127.0.0.1:{free_port()}/v1",
        "upstream_key": CANARIES["upstream"],
        "sidecar_keys": hashlib.sha256(CANARIES["key"].encode()).hexdigest(),
    }
    nowhere = f"127.0.0.1:{free_port()}"
    bad = good | {
        "redis_url": f"redis://canary:{CANARIES['redis']}@{nowhere}/0",
        "arq_redis_url": f"redis://canary:{CANARIES['redis']}@{nowhere}/0",
        "database_url": f"postgresql://canary:{CANARIES['database']}@{nowhere}/taximeter",
    }
    wrong = good | {
        "redis_url": with_login(redis_url, "canary", f"{CANARIES['redis']}-wrong"),
        "database_url": f"mysql://canary:{CANARIES['database']}@{nowhere}/taximeter",
    }
    scene = Scene(tmp_path / "logs")
    try:
        with ExitStack() as stack:
            ports = []
            for settings in (good, bad, wrong):
                for command in ("settler", "check", "migrate", "rebuild"):
                    scene.run(stack, command, **settings)
                for command, port in (("api", "port"), ("sidecar", "sidecar_port")):
                    ports.append(free_port())
                    scene.run(stack, command, **settings, **{port: str(ports[-1])})
            await _ask_wrongly(*(f"http://127.0.0.1:{port}" for port in ports[:2]))

            async def all_said_something() -> bool:
                return all(text or ended(process) for process, text in scene.written)

            await eventually(all_said_something, within_s=ENDS_S, what="a word from everybody")
    finally:
        await redis.execute_command("ACL", "DELUSER", "canary")
    told = {
        f"{process.name} wrote the secret of the {what}"
        for process, text in scene.written
        for what, secret in CANARIES.items()
        if secret in text
    }
    assert not told
    assert sum(len(text) for _, text in scene.written) > 1_000


async def _ask_wrongly(api: str, sidecar: str) -> None:
    """Requests with secrets in them, of which none can succeed."""
    headers = {
        "Authorization": f"Bearer {CANARIES['bearer']}",
        "Cookie": f"session_token={CANARIES['cookie']}",
        "X-Api-Key": CANARIES["key"],
    }
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": CANARIES["prompt"]}]}
    async with httpx.AsyncClient(timeout=60, trust_env=False, headers=headers) as http:

        async def answered() -> bool:
            with suppress(httpx.TransportError):
                await http.post(f"{sidecar}/v1/charge", json=body)
                await http.post(f"{sidecar}/v1/charge", content=CANARIES["prompt"])
                await http.get(f"{api}/api/v1/auth/user?token={CANARIES['bearer']}")
                await http.post(f"{api}/api/v1/llm/chat/completions", json=body)
                await http.post(f"{api}/api/v1/llm/chat/completions", content=b"{" * 10)
                await http.post(f"{api}/api/v1/org-billing/subscriptions", json=body)
                return True
            await asyncio.sleep(0.05)
            return False

        await eventually(answered, within_s=ENDS_S, what="an answer")
