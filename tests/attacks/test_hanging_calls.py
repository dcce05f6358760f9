"""Callers who keep what everybody shares: requests in progress and connections to an upstream. Who
takes all that they can get leaves as much for the others.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.callers import open_request
from support.processes import Running, running, same_books
from support.provider import Asked, Provider, chat_answer
from support.waiting import eventually
from support.world import CHAT, World

from taximeter.api.web.errors import ApiError
from taximeter.api.web.fair_shares import ConnectionShares, FairShares

# Some start processes of their own, several of them one after the other.
pytestmark = pytest.mark.timeout(900)
HANGS = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hang"}], "max_tokens": 1}
ASKS = {**HANGS, "messages": [{"role": "user", "content": "answer"}]}


async def script(asked: Asked) -> None:
    if asked.body["messages"][0]["content"] == "hang":
        await asked.gone.wait()
    await asked.answer(chat_answer())


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider(script).serving() as opened:
        yield opened


@pytest.fixture
async def hanging(world: World) -> AsyncIterator[list[socket.socket]]:
    found: list[socket.socket] = []
    yield found
    for raw in found:
        raw.close()


def options(world: World, provider: Provider, tmp_path: Path, connections: int) -> dict[str, Any]:
    upstream = {"name": "one", "base_url": provider.url, "connections_max": connections}
    routes = [{"models": ["*"], "targets": [{"upstream": "one"}]}]
    path = tmp_path / "upstreams.json"
    path.write_text(json.dumps({"upstreams": [upstream], "routes": routes}), encoding="utf-8")
    return {**same_books(world), "upstreams_file": path, "shutdown_grace_s": 0.1}


async def hang(
    world: World, api: Running, hanging: list[socket.socket], calls: int, user: str = "ann"
) -> None:
    token = world.token(user)
    hanging += [await open_request(api.url, token, HANGS) for _ in range(calls)]


async def ask_again(world: World, api: Running, hanging: list[socket.socket]) -> None:
    """Who was answered asks anew: a busy machine is late with some holds, and refuses them."""
    for raw in list(hanging):
        try:
            raw.recv(1)
        except BlockingIOError:
            continue
        raw.close()
        hanging.remove(raw)
        await hang(world, api, hanging, 1)


@pytest.mark.parametrize(("connections", "calls", "least"), [(1000, 260, 260), (60, 260, 30)])
async def test_another_organization_is_served_meanwhile(
    world: World,
    provider: Provider,
    hanging: list[socket.socket],
    tmp_path: Path,
    connections: int,
    calls: int,
    least: int,
) -> None:
    """One member hangs on to 260 calls, more than there are connections or fewer: neither another
    organisation nor a colleague waits for any of them.
    """
    await world.funded(credits=90.0)
    await world.funded("eve", org="other")
    await world.add_member("bob")
    assert (await world.allocate("bob", 5.0)).status_code == 200
    async with (
        running("api", "--port", "0", **options(world, provider, tmp_path, connections)) as api,
        httpx.AsyncClient(timeout=300, trust_env=False) as client,
    ):
        await hang(world, api, hanging, calls)

        async def they_hang() -> bool:
            if len(provider.asked) < least:
                await ask_again(world, api, hanging)
            return len(provider.asked) >= least

        await eventually(they_hang, within_s=300, what="the hanging calls")
        for user in ("eve", "bob"):
            for _ in range(5):
                response = await client.post(
                    f"{api.url}{CHAT}", json=ASKS, headers=world.auth(user)
                )
                assert response.status_code == 200, response.text
        if connections < calls:
            hung = [one for one in provider.asked if one.body == HANGS]
            assert len(hung) <= connections * 3 // 4


async def test_too_many_requests_of_one_account_are_told_when_to_come_back(
    world: World, provider: Provider, hanging: list[socket.socket], tmp_path: Path
) -> None:
    await world.funded()
    await world.funded("eve", org="other")
    settings = {**options(world, provider, tmp_path, 1000), "llm_requests_max": 20}
    async with (
        running("api", "--port", "0", **settings) as api,
        httpx.AsyncClient(timeout=300, trust_env=False) as client,
    ):
        await hang(world, api, hanging, 30)

        async def they_hang() -> bool:
            return len(provider.asked) >= 10

        await eventually(they_hang, what="the hanging calls")
        response = await client.post(f"{api.url}{CHAT}", json=ASKS, headers=world.auth("ann"))
        assert (response.status_code, response.headers["Retry-After"]) == (429, "1")
        assert response.json()["error"]["details"] == {
            "reason": "too_much_in_progress",
            "limit": "account",
            "unit": "requests",
        }
        other = await client.post(f"{api.url}{CHAT}", json=ASKS, headers=world.auth("eve"))
        assert other.status_code == 200
        for raw in hanging:
            raw.close()
        hanging.clear()
        for asked in provider.asked:
            asked.reset()

        async def is_served() -> bool:
            again = await client.post(f"{api.url}{CHAT}", json=ASKS, headers=world.auth("ann"))
            return again.status_code == 200

        await eventually(is_served, what="room for the account, once its calls have ended")


def test_everybody_leaves_something_for_the_next() -> None:
    room = FairShares(1000, "requests")
    for number in range(7):
        before = room.used
        taken = []
        while room.limit_reached(f"org-{number}", "u", 1) is None:
            taken.append(room.take(f"org-{number}", "u", 1))
        assert len(taken) == room.used - before >= 8
    whole = FairShares(1000, "requests")
    users = 0
    while whole.limit_reached("org", f"user-{users}", 1) is None:
        whole.take("org", f"user-{users}", 1)
        users += 1
    assert users == 750, "an organisation of many users has three quarters"
    with pytest.raises(ApiError, match="of this organization"):
        whole.take("org", "one more", 1)


def test_many_that_take_all_they_can_leave_room_for_small_requests_of_others() -> None:
    big = FairShares(64 * 2**20, "bytes of requests", always=8 * 2**20)
    for number in range(50):
        while big.limit_reached(f"org-{number}", "user", 8 * 2**20) is None:
            big.take(f"org-{number}", "user", 8 * 2**20)
    for number in range(64):
        assert big.limit_reached(f"late-{number}", "user", 200_000) is None
        big.take(f"late-{number}", "user", 200_000)


def test_what_is_given_back_is_there_again() -> None:
    room = FairShares(8, "requests")
    taken = [room.take("a", "u", 1) for _ in range(4)]
    with pytest.raises(ApiError, match="of this account"):
        room.take("a", "u", 1)
    for share in taken:
        share.give_back()
        share.give_back()
    assert (room.used, len(room._orgs), len(room._accounts)) == (0, 0, 0)


async def test_connections_go_to_others_than_who_has_enough() -> None:
    shares = ConnectionShares(16)
    held = [await shares.acquire("a", "u") for _ in range(8)]
    late = asyncio.create_task(shares.acquire("a", "u"))
    await asyncio.sleep(0)
    assert not late.done(), "half of it is the account's share"
    other = await shares.acquire("b", "u")
    gone = asyncio.create_task(shares.acquire("a", "u"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    for share in (*held, other):
        share.release()
        share.release()
    (await late).release()
    assert shares._shares.used == 0
    assert not shares._waiting
