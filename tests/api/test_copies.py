"""An API on what may be a copy of another installation answers, and takes nothing from anybody."""

from __future__ import annotations

from typing import Any

import pytest
from support.waiting import eventually
from support.world import BILLING, World

COPY = "another_installation"


async def name_it(world: World, name: str) -> None:
    await world.stores.pool.execute("UPDATE taximeter.installation SET name = $1", name)


async def ready(world: World) -> tuple[int, str | None]:
    response = await world.client.get("/readyz")
    return response.status_code, response.json()["reason"]


async def comes_to(world: World, status: int, reason: str | None) -> None:
    async def is_so() -> bool:
        return await ready(world) == (status, reason)

    await eventually(is_so, what=f"/readyz that says {status}")


async def refuses(world: World) -> None:
    """Nothing is held or sent, and reads are answered."""
    sent, events = world.upstream_calls, await world.charges()
    for stream in (False, True):
        response = await world.chat(stream=stream)
        error: dict[str, Any] = response.json()["error"]
        assert response.status_code == 503
        assert error["code"] == "SERVICE_UNAVAILABLE"
        assert error["details"]["reason"] == COPY
        assert "may be a copy of another installation" in error["message"]
    assert world.upstream_calls == sent
    assert (await world.balance()).held == 0
    assert await world.charges() == events
    response = await world.client.get(f"{BILLING}/credits/acme", headers=world.auth("boss"))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("api_options", [{"installation": "staging"}], ids=["staging"])
async def test_an_api_of_another_name_takes_nothing(world: World) -> None:
    await world.funded()
    assert (await world.chat()).status_code == 200
    await name_it(world, "production")
    await comes_to(world, 503, COPY)
    await refuses(world)
    await name_it(world, "staging")  # As `taximeter restored --copy staging` does.
    await comes_to(world, 200, None)
    assert (await world.chat()).status_code == 200
    assert world.upstream_calls == 2


async def test_an_api_of_a_copy_takes_nothing_until_somebody_has_answered(world: World) -> None:
    await world.funded()
    await world.stores.pool.execute(
        "UPDATE taximeter.installation SET silent_since = now(), silent_because = 'x',"
        " is_stopped = true"
    )
    await comes_to(world, 503, COPY)
    await refuses(world)
    await world.stores.pool.execute(
        "UPDATE taximeter.installation SET silent_since = NULL, silent_because = NULL,"
        " is_stopped = false"
    )
    await comes_to(world, 200, None)
    assert (await world.chat()).status_code == 200


async def test_an_api_without_a_name_goes_on_with_a_database_that_has_one(world: World) -> None:
    await world.funded()
    await name_it(world, "production")
    await world.app.state.services.installation.look()
    assert (await world.chat()).status_code == 200
