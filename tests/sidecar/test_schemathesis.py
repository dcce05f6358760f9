"""Requests that nobody thought of, from the OpenAPI document, against the running command: nothing
answers 500, every answer is one that the document promises, and no credits come from nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from sidecar.test_process import ready, running
from support.fuzzing import KEYS, MINUTES, fuzz
from support.key_ring import Ring
from support.shard import ScriptedShard
from support.sidecar import FUNDS, served

from taximeter.meter import Meter
from taximeter.meter.pricing import Pricer
from taximeter.meter.sidecar import create_sidecar
from taximeter.meter.sidecar.app import openapi_document

pytestmark = [pytest.mark.slow, pytest.mark.whole, pytest.mark.timeout(1200 + MINUTES * 60)]

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,response_headers_conformance,ignored_auth,unsupported_method"
)
# Its phase "coverage" walks through every field of every operation of a batch, for many minutes.
PHASES = "examples,fuzzing"
KEY = "a-key-for-everything"
# Real names among the made-up ones, or every operation ends at an account that is not there.
CONFIG = """
[parameters]
"query.org_id" = "acme"
"query.user_id" = "ann"
"header.X-Org-Id" = "acme"
"header.X-User-Id" = "ann"
"path.price" = ["0.001", "x", "-1"]
"body.org_id" = "acme"
"body.user_id" = ["ann", "bob"]
"""


async def ask(folder: Path, url: str, key: str, examples: int, checks: str = CHECKS) -> str:
    (folder / "openapi.json").write_bytes(openapi_document())
    headers = (f"--header=Authorization: Bearer {key}", f"--header=X-Taximeter-Key: {key}")
    document = str(folder / "openapi.json")
    more = (*(headers if key else ()), f"--max-examples={examples}")
    code, said = await fuzz(folder, document, url, CONFIG, PHASES, checks, *more)
    assert code == 0, said[-6000:]
    return said


async def test_the_command_keeps_its_document(
    redis_url: str, shard: ScriptedShard, tmp_path: Path
) -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    async with (
        running(
            "--port", "0", redis_url=redis_url, sidecar_keys=digest, strangers_per_minute=0
        ) as (process, url),
        ready(url) as caller,
    ):
        said = await ask(tmp_path, url, KEY, 5)
        assert "only 401/403" not in said, "forward auth was not asked anything"
        assert process.returncode is None
        headers = {"Authorization": f"Bearer {KEY}"}
        query = {"org_id": "acme", "user_id": "ann"}
        left = (await caller.client.get("/v1/balance", params=query, headers=headers)).json()
        charged = sum(int(event[4]) for event in await shard.events())
        assert left["available_millicredits"] + left["held_millicredits"] == FUNDS - charged
        assert charged > 0, "nothing came through: the made-up requests miss every account"


@pytest.mark.parametrize("key", KEYS[1:] if MINUTES else KEYS[1:2], ids=lambda key: key or "none")
async def test_no_kind_of_key_is_answered_500(
    meter: Meter, pricer: Pricer, tmp_path: Path, key: str
) -> None:
    async with served(create_sidecar(meter, pricer=pricer, keys=Ring())) as url:
        # Whether a key is asked for is not what a ring of made-up ones can show.
        await ask(tmp_path, url, key, 1, CHECKS.replace("ignored_auth,", ""))
