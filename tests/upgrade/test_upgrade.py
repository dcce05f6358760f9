"""A populated system goes from the last release to this one and back, a process at a time, while
gateways of both releases charge: no call fails, and the books are right.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import pytest
from acceptance import test_rolling_restart
from acceptance.test_rolling_restart import Client
from redis.asyncio import Redis
from support.memory import memory_folder
from support.servers import ValkeyFactory
from support.waiting import eventually

from taximeter.api.embedded.machine import free_port
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.meter.wire.release import build
from taximeter.settler.books.stores import Stores
from taximeter.settler.proof.check import check
from upgrade.former import VERSION, ReleaseProcess, installed, last_release

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1_800)]

PATIENCE_S: Final = 240.0
GATEWAY: Final = str(Path(__file__).with_name("gateway.py"))
NOW: Final = Path(sys.executable)
KINDS: Final = ("settler", "sidecar", "api")
"""In the order of an upgrade; back it is the other way round."""


@dataclass
class Rolling:
    """One process of each kind, by the release that it is of now."""

    folder: Path
    environment: Mapping[str, str]
    ports: dict[str, int]
    running: dict[str, ReleaseProcess] = field(default_factory=dict)
    started: int = 0

    async def start(self, kind: str, python: Path) -> None:
        """Returns when it answers: one that is stopped before has no time to end in good order."""
        self.started += 1
        ports = {
            "TAXIMETER_SIDECAR_PORT": str(self.ports["sidecar"]),
            "TAXIMETER_SETTLER_PORT": str(self.ports["settler"]),
            "TAXIMETER_SIDECAR_DRAIN_S": "1",
            "TAXIMETER_DEV_MODE": "1",
            "TAXIMETER_DATA_DIR": str(self.folder / "data"),
            "TAXIMETER_UPSTREAM_BASE_URL": "http://127.0.0.1:9",
        }
        arguments = ["api", "--port", str(self.ports["api"])] if kind == "api" else [kind]
        process = ReleaseProcess(
            kind,
            arguments,
            {**self.environment, **ports},
            self.folder / f"{self.started}-{kind}.log",
            python,
        )
        process.start()
        self.running[kind] = process

        async def answers() -> bool:
            process.check_alive()
            try:
                async with httpx.AsyncClient(trust_env=False) as http:
                    said = await http.get(f"http://127.0.0.1:{self.ports[kind]}/livez")
            except httpx.TransportError:
                return False
            return said.status_code == httpx.codes.OK

        await eventually(answers, within_s=PATIENCE_S, what=f"a {kind} that answers")

    async def replace(self, kind: str, python: Path) -> None:
        """Stop it in good order, and start that of another release."""
        process = self.running.pop(kind)
        code = await asyncio.to_thread(process.stop, PATIENCE_S)
        assert code == 0, f"{kind}: {code}\n{process.log_tail()}"
        await self.start(kind, python)

    def stop(self) -> None:
        for process in self.running.values():
            process.stop()


@asynccontextmanager
async def gateways(folder: Path, redis_url: str, *pythons: Path) -> AsyncIterator[Iterator[Path]]:
    """One of each release, that charges until the block ends; their answers are in these files."""
    processes, files = [], []
    for number, python in enumerate(pythons):
        files.append(folder / f"gateway-{number}.log")
        processes.append(
            ReleaseProcess(
                f"gateway-{number}",
                [redis_url, f"g{number}"],
                {"PYTHONUNBUFFERED": "1"},
                files[-1],
                python,
                (GATEWAY,),
            )
        )
        processes[-1].start()
    try:
        yield iter(files)
    finally:
        for process in processes:
            await asyncio.to_thread(process.stop, PATIENCE_S)


def answers(file: Path) -> dict[str, int]:
    lines = [line.split() for line in file.read_text().splitlines()]
    assert all(len(line) == 2 for line in lines), lines[-20:]
    return {request_id: int(amount) for request_id, amount in lines}


async def goes_on(client: Client, files: list[Path]) -> None:
    """Wait until everybody has had some more answers."""
    before = [len(answers(file)) if file.exists() else 0 for file in files]

    async def went_on() -> bool:
        return all(
            file.exists() and len(answers(file)) > count + 5
            for file, count in zip(files, before, strict=True)
        )

    await client.goes_on()
    await eventually(went_on, within_s=PATIENCE_S, what="gateways that charge")


async def is_of(port: int, wanted: str) -> None:
    """Wait until the process behind the port says that it is of this build."""

    async def says_so() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as http:
                said = await http.get(f"http://127.0.0.1:{port}/metrics")
        except httpx.TransportError:
            return False
        return f'build="{wanted}"' in said.text

    await eventually(says_so, within_s=PATIENCE_S, what=f"build {wanted}")


def migrated(python: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [python, "-m", "taximeter.api", "migrate"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr


async def test_no_call_fails_from_the_last_release_to_this_one_and_back(
    tmp_path: Path,
    valkey_server: ValkeyFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(test_rolling_restart, "CALLERS", 2)
    monkeypatch.setattr(test_rolling_restart, "PATIENCE_S", PATIENCE_S)
    before = installed(last_release(tmp_path / "source"), tmp_path / "former")
    valkey = valkey_server("--appendfsync", "always")
    redis = Redis.from_url(valkey.url)
    with memory_folder() as memory, EmbeddedPostgres(memory or tmp_path / "postgres") as server:
        environment = {"TAXIMETER_DATABASE_URL": server.url, "TAXIMETER_REDIS_URL": valkey.url}
        await asyncio.to_thread(migrated, before, environment)
        pool = await asyncpg.create_pool(server.url, min_size=0)
        rolling = Rolling(tmp_path, environment, {kind: free_port() for kind in KINDS})
        try:
            await pool.execute(
                "INSERT INTO organizations (id, org_name, slug, created_by)"
                " VALUES ('acme', 'acme', 'acme', 'test')"
            )
            await pool.execute("SELECT add_credits_to_pool('acme', 1000000000, 1.00)")
            await pool.execute("SELECT allocate_credits_to_user('acme', 'ann', 1000000000, 'test')")
            for kind in KINDS:
                await rolling.start(kind, before)
            client = Client([f"http://127.0.0.1:{rolling.ports['sidecar']}"])
            async with gateways(tmp_path, valkey.url, before, NOW) as made, client.calling():
                files = list(made)
                await goes_on(client, files)
                await asyncio.to_thread(migrated, NOW, environment)
                await goes_on(client, files)
                for kind in KINDS:
                    await rolling.replace(kind, NOW)
                    await goes_on(client, files)
                await is_of(rolling.ports["sidecar"], build())
                for kind in reversed(KINDS):
                    await rolling.replace(kind, before)
                    await goes_on(client, files)
            assert client.failed == [], VERSION
            charged = dict(client.committed)
            for file in files:
                charged |= answers(file)

            async def settled() -> bool:
                rows = await pool.fetch("SELECT request_id, amount FROM taximeter.charged_requests")
                return dict(rows) == charged  # type: ignore[arg-type]

            await eventually(settled, within_s=PATIENCE_S, what="books that have everything")
            report = await check(Stores(pool, redis))
            assert report.holds, [one for one in report.invariants if not one.holds]
        finally:
            await asyncio.to_thread(rolling.stop)
            await pool.close()
            await redis.aclose()
