"""Processes that are stopped or killed with answers that nobody has charged yet: what was told is
booked by the next process, once, and what was delivered is paid up to a moment ago.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.callers import open_request, read_until
from support.processes import running, same_books
from support.provider import USAGE, Asked, Provider, chat_answer
from support.proxy import Proxy
from support.waiting import eventually
from support.world import CHAT, SHARDS, World

from taximeter.api.llm.unsent_charges import Due, PendingCharges
from taximeter.meter import AccountNotFound, StoreUnavailable

# Some start processes of their own, several of them one after the other.
pytestmark = pytest.mark.timeout(900)
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


class Gated:
    """Streams thirty words, and thirty more and the end when the test says so; or answers whole."""

    def __init__(self) -> None:
        self.more = asyncio.Event()
        self.end = asyncio.Event()

    async def __call__(self, asked: Asked) -> None:
        if not asked.body.get("stream"):
            await self.end.wait()
            await asked.answer(chat_answer())
            return
        await asked.begin()
        await asked.text(*("word ",) * 30)
        await self.more.wait()
        await asked.text(*("more ",) * 30)
        await self.end.wait()
        await asked.text(finish="stop", usage=USAGE)
        await asked.end()


@pytest.fixture
def gated() -> Gated:
    return Gated()


@pytest.fixture
async def provider(gated: Gated) -> AsyncIterator[Provider]:
    async with Provider(gated).serving() as opened:
        yield opened


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def options(world: World, provider: Provider, proxy: Proxy, folder: Path) -> dict[str, object]:
    return {
        **same_books(world),
        "upstream_base_url": provider.url,
        "redis_url": proxy.url,
        "charge_folder": folder,
        "shutdown_grace_s": 1,
        "hold_ttl_s": 600,
    }


def texts(folder: Path, suffix: str = "") -> list[str]:
    """What the files of a folder hold."""
    return [path.read_text() for path in folder.glob(f"*{suffix}")]


async def only_charge(world: World) -> dict[str, Any]:
    async def is_charged() -> bool:
        return bool(await world.charges())

    await eventually(is_charged, within_s=120, what="the charge of the next process")
    [charge] = await world.charges()
    return {**charge, **json.loads(charge["metadata"])}


async def booked_once_after_restarts(
    world: World, options: dict[str, object], folder: Path
) -> dict[str, Any]:
    """What the next process books; the one after it has nothing to do."""
    async with running("api", "--port", "0", **options) as api:
        charge = await only_charge(world)
        api.process.send_signal(signal.SIGTERM)
        await api.ended()

    async with (
        running("api", "--port", "0", **options) as api,
        httpx.AsyncClient(timeout=300, trust_env=False, headers=world.auth("ann")) as client,
    ):

        async def is_ticked_off() -> bool:
            shown = await client.get(f"{api.url}/v1/requests/{charge['request_id']}")
            return shown.status_code == 200 and shown.json()["settlement"] != "pending"

        # What the first was too slow to tick off within its grace is done again, for nothing.
        await eventually(is_ticked_off, within_s=120, what="a charge that nobody owes any more")
        assert [one["id"] for one in await world.charges()] == [charge["id"]]
        api.process.send_signal(signal.SIGTERM)
        await api.ended()
    # Its own file goes with a process that owes nothing.
    assert not texts(folder, ".jsonl")
    assert (await world.balance()).held == 0
    await world.prove()
    return charge


@pytest.mark.parametrize(
    ("stream", "how"),
    [(True, signal.SIGTERM), (False, signal.SIGKILL)],
    ids=["stream-SIGTERM", "whole-kill -9"],
)
async def test_what_was_told_in_an_outage_is_booked_after_a_restart(
    world: World,
    provider: Provider,
    proxy: Proxy,
    gated: Gated,
    options: dict[str, object],
    folder: Path,
    how: signal.Signals,
    stream: bool,
) -> None:
    await world.funded()
    fields = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    async with (
        running("api", "--port", "0", **options) as api,
        httpx.AsyncClient(timeout=300, trust_env=False, headers=world.auth("ann")) as client,
    ):

        def ask() -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post(f"{api.url}{CHAT}", json={**BODY, **fields}))

        asking = ask()

        async def is_asked() -> bool:
            nonlocal asking
            if asking.done() and not provider.asked:
                # A busy machine was late with the hold: nothing was done.
                assert (await asking).status_code == 503
                asking = ask()
            return bool(provider.asked)

        await eventually(is_asked, within_s=120, what="a request upstream")
        proxy.black_hole(True)
        gated.more.set()
        gated.end.set()
        answer = await asking
        if stream:
            usage = json.loads(answer.text.split("data: ")[-2])["usage"]
            assert usage["charge_pending"] is True
            told = round(usage["cost_incurred"] * 1000)
        else:
            assert answer.headers["X-Charge-Pending"] == "true"
            told = round(float(answer.headers["X-Cost-Incurred"]) * 1000)
        assert told > 0
        request_id = answer.headers["X-Request-Id"]
        shown = (await client.get(f"{api.url}/v1/requests/{request_id}")).json()
        assert shown["settlement"] == "pending"
        assert round(shown["cost_incurred"] * 1000) == told
        api.process.send_signal(how)
        await api.ended()
        if how is signal.SIGTERM:
            assert b"charge left pending in" in api.output
            assert request_id.encode() in api.output
    proxy.heal()
    charge = await booked_once_after_restarts(world, options, folder)
    assert (charge["request_id"], charge["credits_used"]) == (request_id, told)


async def test_what_was_delivered_in_an_outage_is_on_disk_before_the_end(
    world: World, proxy: Proxy, gated: Gated, options: dict[str, object], folder: Path
) -> None:
    """kill -9 in the middle of a stream, with Redis away since before its second half."""
    await world.funded()
    async with running("api", "--port", "0", **options) as api:
        raw = await open_request(api.url, world.token("ann"), {**BODY, "stream": True})
        await read_until(raw, b"word ", times=30)
        proxy.black_hole(True)
        gated.more.set()
        await read_until(raw, b"more ", times=30)

        async def is_kept() -> bool:
            lines = texts(folder, ".jsonl")
            return any('\\"completion_tokens\\":60' in one for one in lines)

        await eventually(is_kept, within_s=60, what="the progress on disk")
        api.process.send_signal(signal.SIGKILL)
        await api.ended()
        raw.close()
    proxy.heal()
    charge = await booked_once_after_restarts(world, options, folder)
    assert (charge["completion_tokens"], charge["estimated"]) == (60, True)


async def test_what_is_delivered_is_reported_long_before_a_heartbeat(
    world: World, options: dict[str, object]
) -> None:
    """The heartbeats of this hold come every 200 s."""
    await world.funded()
    async with running("api", "--port", "0", **options) as api:
        raw = await open_request(api.url, world.token("ann"), {**BODY, "stream": True})
        await read_until(raw, b"word ", times=30)

        async def is_reported() -> bool:
            for shard in range(SHARDS):
                holds = await world.stores.redis.hvals(world.stores.keys(shard).holds)
                if any(b'"completion_tokens":30' in hold for hold in holds):
                    return True
            return False

        await eventually(is_reported, within_s=60, what="the progress of the hold")
        api.process.send_signal(signal.SIGKILL)
        await api.ended()
        raw.close()


class FakeMeter:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.made: list[tuple[str, int]] = []

    async def get(self) -> Any:
        return self

    async def commit(
        self, org_id: str, user_id: str, request_id: str, amount: int, *, usage: Any
    ) -> None:
        if self.error is not None:
            raise self.error
        self.made.append((request_id, amount))


def due(number: int, amount: int = 5, *, is_final: bool = True) -> Due:
    payload = '{"type":"llm_inference","name":"m","meta":{}}'
    return Due("acme", "ann", f"req-{number}", amount, payload, is_final)


async def made(meter: FakeMeter, count: int) -> None:
    async def are_made() -> bool:
        return len(meter.made) >= count

    await eventually(are_made, what="the charges")


async def test_a_folder_is_shared_and_only_the_dead_are_inherited(tmp_path: Path) -> None:
    meter = FakeMeter()
    meter.error = StoreUnavailable("away")
    living, dying = (PendingCharges(tmp_path, meter.get) for _ in range(2))
    assert await living.keep(due(1))
    assert await dying.keep(due(2, 5, is_final=False))
    assert await dying.keep(due(2, 7, is_final=False))
    assert await dying.keep(due(3, is_final=False))
    await dying.ended("acme", "req-3")
    await dying.aclose()
    heir = PendingCharges(tmp_path, meter.get)
    await heir.open()
    assert [one.amount for one in heir._due.values()] == [7], "the last that was said of request 2"
    meter.error = None
    await made(meter, 2)
    await living.aclose()
    await heir.aclose()
    assert sorted(meter.made) == [("req-1", 5), ("req-2", 7)]
    assert texts(tmp_path) == []


async def test_a_charge_that_is_refused_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meter = FakeMeter()
    meter.error = AccountNotFound("acme", "ann")
    pending = PendingCharges(tmp_path, meter.get)
    assert await pending.keep(due(1))

    async def is_gone() -> bool:
        return len(pending) == 0

    await eventually(is_gone, what="the end of the charge")
    await pending.aclose()
    [refused] = texts(tmp_path, ".refused")
    assert "req-1" in refused
    assert "charge not applied: org=acme user=ann request=req-1 credits=0.005" in caplog.text


async def test_a_folder_that_cannot_be_used_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The charge is still made while the process lives."""
    (tmp_path / "file").write_text("")
    meter = FakeMeter()
    meter.error = StoreUnavailable("away")
    pending = PendingCharges(tmp_path / "file" / "kept", meter.get)
    assert not await pending.keep(due(1))
    assert "a pending charge is not on disk" in caplog.text
    meter.error = None
    await made(meter, 1)
    await pending.aclose()
