"""A sidecar on a real socket, and short words for what a gateway does with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from support.listening import listening
from taximeter.api.processes.sidecar_server import DrainingServer, server_config
from taximeter.api.running.meter_metrics import meter_families
from taximeter.meter import Meter
from taximeter.meter.sidecar import Sidecar
from taximeter.meter.sidecar.app import Metrics
from taximeter.settler.status.metrics import Exposition

FUNDS = 1_000_000
JSON = {"Content-Type": "application/json"}


@dataclass
class Caller:
    """A gateway of the user acme/ann, with short words for what it does."""

    client: httpx.AsyncClient
    url: str

    async def post(self, op: str, **fields: Any) -> httpx.Response:
        body = {"org_id": "acme", "user_id": "ann", **fields}
        return await self.raw(f"/v1/{op}", json.dumps(body).encode())

    async def raw(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        return await self.client.post(path, content=body, headers={**JSON, **headers})

    async def ok(self, op: str, **fields: Any) -> dict[str, Any]:
        response = await self.post(op, **fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def refused(self, op: str, **fields: Any) -> tuple[int, str, dict[str, Any]]:
        return problem(await self.post(op, **fields))

    async def batch(self, *operations: dict[str, Any]) -> list[dict[str, Any]]:
        full = [{"org_id": "acme", "user_id": "ann", **one} for one in operations]
        response = await self.raw("/v1/batch", json.dumps({"operations": full}).encode())
        assert response.status_code == 200, response.text
        results: list[dict[str, Any]] = response.json()["results"]
        return results

    async def balance(self, org_id: str = "acme", user_id: str = "ann") -> tuple[int, int]:
        query = {"org_id": org_id, "user_id": user_id}
        answer = (await self.client.get("/v1/balance", params=query)).json()
        return answer["available_millicredits"], answer["held_millicredits"]

    async def lookup(self, request_id: str, org_id: str = "acme") -> httpx.Response:
        query = {"org_id": org_id, "request_id": request_id}
        return await self.client.get("/v1/operations", params=query)

    async def shell(self, command: str) -> str:
        """What a shell command prints, while the sidecar goes on in this event loop."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", command), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
        assert process.returncode == 0, command
        return output.decode()


def problem(response: httpx.Response) -> tuple[int, str, dict[str, Any]]:
    """(status, code, details) of a refusal, whose form is checked on the way."""
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"code", "message", "details"}
    assert error["message"]
    return response.status_code, error["code"], error["details"]


@asynccontextmanager
async def served(sidecar: Sidecar) -> AsyncIterator[str]:
    """Serve on a free port of the loopback, in this event loop, as the command does."""
    config = server_config(sidecar)
    config.log_config = None
    config.timeout_graceful_shutdown = 2
    async with listening(DrainingServer(config, sidecar, 0.0)) as url:
        yield url


@asynccontextmanager
async def calling(url: str) -> AsyncIterator[Caller]:
    # One that has rested for longer may just be closed by the server.
    limits = httpx.Limits(max_connections=50, keepalive_expiry=1.0)
    async with httpx.AsyncClient(
        base_url=url, timeout=60, trust_env=False, limits=limits
    ) as client:
        yield Caller(client, url)


def exposed(meter: Meter) -> Metrics:
    """What /metrics of a sidecar with this meter says."""
    exposition = Exposition("sidecar", None)
    exposition.add(lambda: meter_families(meter))
    return exposition.text
