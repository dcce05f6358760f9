"""Requests that nobody thought of, from the OpenAPI document, against the running command: nothing
answers 500, every answer is one that the document promises, and no credits come from nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from pathlib import Path

import pytest
from sidecar.test_process import ready, running
from support.shard import ScriptedShard
from support.sidecar import FUNDS

from taximeter.meter.sidecar.app import openapi_document

pytestmark = [pytest.mark.slow, pytest.mark.timeout(660)]

PROGRAM = Path(sys.executable).with_name("schemathesis")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,response_headers_conformance,ignored_auth,unsupported_method"
)
# Its phase "coverage" walks through every field of every operation of a batch, for many minutes.
PHASES = os.environ.get("TAXIMETER_FUZZ_PHASES", "examples,fuzzing")
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


async def test_the_command_keeps_its_document(
    redis_url: str, shard: ScriptedShard, tmp_path: Path
) -> None:
    (tmp_path / "openapi.json").write_bytes(openapi_document())
    (tmp_path / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    async with (
        running("--port", "0", redis_url=redis_url, sidecar_keys=digest) as (process, url),
        ready(url) as caller,
    ):
        fuzzer = await asyncio.create_subprocess_exec(
            str(PROGRAM),
            f"--config-file={tmp_path / 'schemathesis.toml'}",
            "run",
            str(tmp_path / "openapi.json"),
            f"--url={url}",
            f"--header=Authorization: Bearer {KEY}",
            f"--header=X-Taximeter-Key: {KEY}",
            f"--checks={CHECKS}",
            f"--phases={PHASES}",
            "--max-examples=5",
            "--generation-deterministic",
            "--workers=2",
            "--request-timeout=120",
            "--no-color",
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(600):
            output, _ = await fuzzer.communicate()
        said = output.decode()
        assert fuzzer.returncode == 0, said[-6000:]
        assert "only 401/403" not in said, "forward auth was not asked anything"
        assert process.returncode is None
        headers = {"Authorization": f"Bearer {KEY}"}
        query = {"org_id": "acme", "user_id": "ann"}
        left = (await caller.client.get("/v1/balance", params=query, headers=headers)).json()
        charged = sum(int(event[4]) for event in await shard.events())
        assert left["available_millicredits"] + left["held_millicredits"] == FUNDS - charged
        assert charged > 0, "nothing came through: the made-up requests miss every account"
