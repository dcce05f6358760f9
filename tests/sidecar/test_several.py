"""`taximeter sidecar --processes`: one port, several processes, one command."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from sidecar.test_process import CHARGE, COMMAND, ended, environment
from support.forked import run_forked
from support.shard import ScriptedShard
from support.sidecar import FUNDS, JSON, problem
from support.waiting import eventually

from taximeter.api.embedded.machine import free_port
from taximeter.api.processes.several import close_all, reserve_port, share_port

PROCESSES = 2


@dataclass(slots=True)
class Running:
    """The process that keeps the others, and what it and they said."""

    process: asyncio.subprocess.Process
    said: str = ""
    is_over: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self.changed:
                self.said += line.decode()
                self.changed.notify_all()
        async with self.changed:
            self.is_over = True
            self.changed.notify_all()

    async def until(self, pattern: str, times: int = 1) -> list[str]:
        """All that was found once it was said so often."""
        found: list[str] = []

        def is_there() -> bool:
            found[:] = re.findall(pattern, self.said)
            return len(found) >= times

        async with asyncio.timeout(120), self.changed:
            await self.changed.wait_for(lambda: is_there() or self.is_over)
        assert len(found) >= times, f"{pattern} was not said: {self.said}"
        return found

    async def pids(self, times: int = PROCESSES) -> list[int]:
        return [int(pid) for pid in await self.until(r"listens, pid (\d+)", times)]


@asynccontextmanager
async def running(*arguments: str, **settings: object) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "--processes", str(PROCESSES), *arguments),
        env=environment(**settings),
        stderr=asyncio.subprocess.PIPE,
    )
    run = Running(process)
    reading = asyncio.create_task(run.read())
    try:
        yield run
    except BaseException:
        for pid in re.findall(r"listens, pid (\d+)", run.said):  # They may have long to drain.
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        raise
    finally:
        if process.returncode is None:
            process.kill()  # The others see that it is gone.
        async with asyncio.timeout(120):
            await process.wait()
            await reading  # They hold the other end: all have ended.


async def answer_of(url: str, path: str = "/readyz") -> httpx.Response:
    """By a connection of its own, so that the kernel chooses a process."""
    async with httpx.AsyncClient(timeout=120) as client:
        return await client.get(url + path)


async def charge(url: str, transport: httpx.AsyncHTTPTransport | None = None) -> None:
    async with httpx.AsyncClient(transport=transport, base_url=url, timeout=120) as client:
        while True:
            response = await client.post("/v1/charge", content=CHARGE, headers=JSON)
            if response.status_code != 503:  # One of them has no connection to Redis yet.
                break
    assert response.json()["state"] == "charged"


async def charges(ports: list[int]) -> list[int]:
    """Millicredits that each process has charged, as its own port of metrics tells."""
    counted = []
    for port in ports:
        text = (await answer_of(f"http://127.0.0.1:{port}", "/metrics")).text
        found = re.findall(r"^taximeter_charged_credits_total\{.*\} (\S+)$", text, re.MULTILINE)
        counted.append(round(1_000 * sum(map(float, found))))
    return counted


async def test_they_share_a_port_until_all_have_drained(
    redis_url: str, shard: ScriptedShard
) -> None:
    metrics = free_port(2)
    settings = {"redis_url": redis_url, "sidecar_drain_s": 600, "sidecar_metrics_port": metrics}
    ports = [metrics, metrics + 1]
    async with running("--port", "0", **settings) as run:
        killed, other = await run.pids()
        (url,) = await run.until(r"are to serve (http://[\d.:]+)")
        made = 0

        async def both_have_charged() -> bool:
            nonlocal made
            await charge(url)
            made += 1
            return min(await charges(ports)) > 0

        await eventually(both_have_charged, what="a charge by each process")
        assert sum(await charges(ports)) == made
        assert (await shard.account("acme/ann"))[0] == FUNDS - made
        # It would be the figures of whichever process took the connection.
        assert (await answer_of(url, "/metrics")).status_code == 404

        # One that is killed is started again, and the other goes on.
        os.kill(killed, signal.SIGKILL)
        await run.until(r"process \d ended \(-9\); another in 0.5 s")
        third = (await run.pids(PROCESSES + 1))[-1]
        assert third not in (killed, other)
        await eventually(both_have_charged, what="a charge by the new process")

        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            hold = b'{"org_id":"acme","user_id":"ann","request_id":"r","amount_millicredits":9}'
            response = await client.post("/v1/reserve", content=hold, headers=JSON)
            assert response.json()["state"] == "open"
            # As systemd does: everybody is told, and each drains once.
            for pid in (run.process.pid, other, third):
                os.kill(pid, signal.SIGTERM)

            async def is_draining() -> bool:
                response = await client.get("/readyz")
                return response.status_code == 503 and problem(response)[1] == "DRAINING"

            await run.until("all processes drain")
            await eventually(is_draining, what="the drain")
            response = await client.post("/v1/commit", content=hold, headers=JSON)
            assert response.json()["charged_millicredits"] == 9
        run.process.terminate()
        assert await ended(run.process) == 0


async def test_they_end_with_the_one_that_keeps_them(
    redis_url: str, shard: ScriptedShard, tmp_path: Path
) -> None:
    path = tmp_path / "sidecar.sock"
    settings = {"redis_url": redis_url, "sidecar_socket": path, "sidecar_drain_s": 0}
    async with running(**settings) as run:
        await run.pids()
        await charge("http://sidecar", httpx.AsyncHTTPTransport(uds=str(path)))
        run.process.kill()
        # `running` waits until all of them have closed what they write to.


async def test_one_that_cannot_start_stops_all(
    redis_url: str, shard: ScriptedShard, tmp_path: Path
) -> None:
    metrics = free_port(2)
    path = tmp_path / "sidecar.sock"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", metrics + 1))
        taken.listen()
        ended = await asyncio.to_thread(
            run_forked,
            *("sidecar", "--processes", str(PROCESSES), "--socket", str(path)),
            environment=environment(
                redis_url=redis_url, sidecar_drain_s=0, sidecar_metrics_port=metrics
            ),
        )
    assert ended.returncode == 1
    assert "address already in use" in ended.text
    assert "Traceback" not in ended.text
    assert not path.exists()


def test_a_port_that_another_group_has_is_refused() -> None:
    """The kernel alone would let both groups share it."""
    reserved = reserve_port("localhost", 0)
    port = reserved[0].getsockname()[1]
    shared = share_port("localhost", port)
    try:
        shared[0].listen()
        with pytest.raises(OSError, match="in use"):
            reserve_port("localhost", port)
    finally:
        close_all(reserved + shared)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sidecar_processes": 0}, "TAXIMETER_SIDECAR_PROCESSES"),
        ({"sidecar_processes": 65}, "TAXIMETER_SIDECAR_PROCESSES"),
        (
            {"sidecar_processes": 2, "sidecar_metrics_port": 65_535},
            "TAXIMETER_SIDECAR_METRICS_PORT: the last process would have port 65536",
        ),
    ],
)
def test_it_refuses_numbers_that_do_not_fit(settings: dict[str, object], said: str) -> None:
    refused = run_forked("sidecar", environment=environment(**settings))
    assert refused.returncode == 1
    assert said in refused.text
    assert "Traceback" not in refused.text
