"""Requests that nobody thought of, from the document itself: nothing answers 500, and a session is
asked for wherever the document says so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.fuzzing import MINUTES, ROLES, fuzz
from support.world import World

from taximeter.api.web.links import LINKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 + MINUTES * 60)]

IN_SUITE = ("system admin", "member")
CHECKS = "not_a_server_error,ignored_auth,status_code_conformance,content_type_conformance"


@pytest.fixture
def api_options() -> dict[str, Any]:
    """What is sent is more than any caller may."""
    return {"rate_limits": False}


@pytest.mark.parametrize("role", ROLES if MINUTES else IN_SUITE)
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
    phases, chains = "fuzzing,stateful", 5
    if role == "system admin":
        phases, chains = "examples,coverage,fuzzing,stateful", 25
    # It would wait for ten seconds at most, and the document is made when it is asked for first.
    document = tmp_path / "openapi.json"
    document.write_bytes((await world.client.get("/openapi.json")).content)
    code, said = await fuzz(
        tmp_path,
        str(document),
        world.url,
        # Real values among the made-up ones: a random organisation is a 404 every time.
        '[parameters]\n"path.org_id" = "acme"\n"path.user_id" = ["ann", "eve"]\n'
        # Chains of requests need more attempts than single ones: most end at a refusal.
        f"[phases.stateful.generation]\nmax-examples = {chains}\n",
        phases,
        CHECKS,
        f"--header=Authorization: {headers['Authorization']}",
        "--max-examples=1",
    )
    assert code == 0, said[-6000:]
    links = re.search(r"API Links: +(\d+) covered / (\d+) selected", said)
    assert links is not None, said[-6000:]
    if role == "system admin":
        # Whoever may do everything gets beyond the first request of a chain.
        assert int(links[1]) >= 5
    assert int(links[2]) >= len([name for one in LINKS.values() for name in one])
