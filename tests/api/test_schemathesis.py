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

IN_SUITE = ("system admin",)
"""What the others are refused is in test_roles.py, route by route."""
CHECKS = "not_a_server_error,ignored_auth,status_code_conformance,content_type_conformance"


@pytest.fixture
def api_options() -> dict[str, Any]:
    """What is sent is more than any caller may."""
    return {"rate_limits": False}


@pytest.mark.whole
@pytest.mark.parametrize("role", ROLES if MINUTES else IN_SUITE)
async def test_nothing_answers_500(world: World, tmp_path: Path, role: str) -> None:
    """Few examples, and always the same ones."""
    phases = "examples,fuzzing,stateful" if role == "system admin" else "fuzzing,stateful"
    _, selected = links(await ask(world, tmp_path, role, phases, 5))
    assert selected >= len([name for one in LINKS.values() for name in one])


@pytest.mark.long
async def test_nothing_answers_500_at_the_bounds_of_every_field(
    world: World, tmp_path: Path
) -> None:
    """Some fifty requests for each operation, and the chains that begin with one of them."""
    phases = "examples,coverage,fuzzing,stateful"
    covered, _ = links(await ask(world, tmp_path, "system admin", phases, 25))
    # Whoever may do everything gets beyond the first request of a chain.
    assert covered >= 5


def links(said: str) -> tuple[int, int]:
    """How many links between operations were followed, and how many there are."""
    found = re.search(r"API Links: +(\d+) covered / (\d+) selected", said)
    assert found is not None, said[-6000:]
    return int(found[1]), int(found[2])


async def ask(world: World, folder: Path, role: str, phases: str, chains: int) -> str:
    await world.funded("ann", 50.0)
    headers = {
        "system admin": world.root,
        "org admin": world.auth("boss"),
        "member": world.auth("ann"),
        "outsider": world.auth("stranger"),
    }[role]
    # It would wait for ten seconds at most, and the document is made when it is asked for first.
    document = folder / "openapi.json"
    document.write_bytes((await world.client.get("/openapi.json")).content)
    code, said = await fuzz(
        folder,
        str(document),
        world.url,
        # Real values among the made-up ones: a random organisation is a 404 every time.
        '[parameters]\n"path.org_id" = "acme"\n"path.user_id" = ["ann", "eve"]\n'
        # Chains of requests need more attempts than single ones: most end at a refusal.
        f"[phases.stateful.generation]\nmax-examples = {chains}\n",
        phases,
        CHECKS,
        f"--header=Authorization: {headers['Authorization']}",
        "--max-examples=2",
    )
    assert code == 0, said[-6000:]
    return said
