"""Requests that nobody thought of, from the document itself: nothing answers 500, and a session is
asked for wherever the document says so.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from support.world import World

from taximeter.api.links import LINKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROGRAM = Path(sys.executable).with_name("schemathesis")
CHECKS = "not_a_server_error,ignored_auth,status_code_conformance,content_type_conformance"


@pytest.fixture
def api_options() -> dict[str, Any]:
    """What is sent is more than any caller may."""
    return {"rate_limits": False}


@pytest.mark.parametrize("role", ["system admin", "org admin", "member", "outsider"])
async def test_nothing_answers_500(world: World, tmp_path: Path, role: str) -> None:
    """Few examples, and always the same ones."""
    await world.funded("ann", 50.0)
    headers = {
        "system admin": world.root,
        "org admin": world.auth("boss"),
        "member": world.auth("ann"),
        "outsider": world.auth("stranger"),
    }[role]
    # Whoever may do everything is asked about everything; for the others it is their refusals.
    phases, examples, chains = "fuzzing,stateful", 1, 5
    if role == "system admin":
        phases, examples, chains = "examples,coverage,fuzzing,stateful", 2, 25
    config = tmp_path / "schemathesis.toml"
    # Real values among the made-up ones: a random organisation is a 404 every time.
    config.write_text(
        '[parameters]\n"path.org_id" = "acme"\n"path.user_id" = ["ann", "eve"]\n'
        # Chains of requests need more attempts than single ones: most end at a refusal.
        f"[phases.stateful.generation]\nmax-examples = {chains}\n",
        encoding="utf-8",
    )
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM),
        f"--config-file={config}",
        "run",
        f"{world.url}/openapi.json",
        f"--header=Authorization: {headers['Authorization']}",
        f"--checks={CHECKS}",
        f"--phases={phases}",
        f"--max-examples={examples}",
        "--generation-deterministic",
        "--workers=2",
        "--request-timeout=120",
        "--no-color",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(840):
        output, _ = await process.communicate()
    said = output.decode()
    (tmp_path / "said.txt").write_text(said)
    assert process.returncode == 0, said[-6000:]
    links = re.search(r"API Links: +(\d+) covered / (\d+) selected", said)
    assert links is not None, said[-6000:]
    if role == "system admin":
        # Whoever may do everything gets beyond the first request of a chain.
        assert int(links[1]) >= 5
    assert int(links[2]) >= len([name for one in LINKS.values() for name in one])
