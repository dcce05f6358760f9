"""A key does what it was made for and to its own holds alone: every operation, by every kind of
key, on every state that a request can be in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import combinations
from typing import Any

import pytest
from redis.asyncio import Redis
from support.key_ring import Ring
from support.shard import ScriptedShard, op
from support.sidecar import Caller, calling, served

from taximeter.meter import Meter, MeterSettings, NotAllowed
from taximeter.meter.sidecar import create_sidecar
from taximeter.meter.sidecar.grants import ANY_HOLD
from taximeter.meter.wire.hold_record import Asker
from taximeter.meter.wire.keys import ShardKeys

HELD = 300
FUNDS = 10**9
OPENERS = {"own": "key1", "another key's": "key2", "a process's": "", "of an older release": None}
OPEN = tuple(OPENERS)
ENDED = ("committed", "released", "expired for nothing", "expired with progress", "charged")
STATES = (*OPEN, *ENDED, "unknown", "another user's")
ASKED = (
    *(("commit", amount) for amount in (0, 120, HELD, HELD + 1, 10**6)),
    ("release", 0),
    *(("touch", amount) for amount in (0, HELD, HELD + 1, 10**12)),
)
RIGHTS = [set(some) for size in range(3) for some in combinations("ac", size)]


async def put(shard: ScriptedShard, request: str, state: str) -> None:
    """Bring a request into a state, in ways that stay what they are whatever is tested here."""
    user = "org/other" if state == "another user's" else "org/u"
    if state == "unknown":
        return
    if state == "charged":
        await shard.one("charge", request, HELD)
        return
    opener = OPENERS.get(state, "key1")
    owner = f"abc12O{opener}" if opener else "abc12"
    await shard.one("reserve", request, HELD, owner=owner, user=user)
    if opener is None:
        old = f"{HELD}\torg/u\t0\tabc12\t"
        await shard.redis.hset(shard.keys.holds, f"org/{request}", old)
    if state == "committed":
        await shard.one("commit", request, 120)
    elif state == "released":
        await shard.one("release", request)
    elif state.startswith("expired"):
        await shard.one("touch", request, 120 if "progress" in state else 0)
        await shard.overdue(request)
        await shard.sweep()


def missing_right(kind: str, amount: int, state: str, rights: set[str]) -> str | None:
    """What a key with these rights lacks, said anew here; None where the state decides."""
    if state in ("another key's", "a process's") and "a" not in rights:
        return "opener"
    if "c" in rights:
        return None
    if state in OPEN and amount > HELD:
        return "progress" if kind == "touch" else "charge"
    if kind == "commit":
        charged = {"unknown": 0, "expired for nothing": 0, "expired with progress": 120}.get(state)
        if charged is not None and (charged == 0 or amount > charged):
            return "charge"
    return None


@pytest.fixture
async def shard(redis: Redis) -> ScriptedShard:
    made = ScriptedShard(redis, ShardKeys("tm", 0))
    await made.open()
    for account in ("org/u", "org/other"):
        await made.load(account, FUNDS)
    return made


@pytest.mark.parametrize("rights", RIGHTS, ids=lambda rights: "".join(sorted(rights)) or "none")
@pytest.mark.parametrize("script", ["operate", "resolve"])
async def test_a_key_does_to_a_hold_what_its_rights_say(
    shard: ScriptedShard, rights: set[str], script: str
) -> None:
    asker = Asker("key1", may_charge="c" in rights, any_hold="a" in rights)
    tried = [(kind, amount, state) for kind, amount in ASKED for state in STATES]
    for number, (_, _, state) in enumerate(tried):
        for who in ("key", "twin"):
            await put(shard, f"{who}{number}", state)
    for number, (kind, amount, state) in enumerate(tried):
        before = await shard.state()
        [answer] = await shard.batch(
            op(kind, f"key{number}", amount, owner=asker.mark), script=script
        )
        right = missing_right(kind, amount, state, rights)
        if right is not None:
            assert answer == f"-8 {right}", (kind, amount, state)
            assert await shard.state() == before
            continue
        if state == "another user's":
            assert answer.split()[0] == "-4"
            assert answer.split()[3:] == ["foreign", "0", "0"], "figures of another user"
            assert await shard.state() == before
            continue
        # Whatever is let through does what it does for one of our own processes.
        [same] = await shard.batch(op(kind, f"twin{number}", amount), script=script)
        assert answer.split()[0] == same.split()[0], (kind, amount, state)
        assert answer.split()[3:] == same.split()[3:]
    available, held, _ = await shard.account()
    charged = sum(int(event[4]) for event in await shard.events() if event[2] == "org/u")
    assert available + held + charged == FUNDS


async def test_the_first_key_that_touches_a_hold_of_an_older_release_becomes_its_opener(
    shard: ScriptedShard,
) -> None:
    await put(shard, "r", "of an older release")
    assert (await shard.one("touch", "r", 5, owner="OKey9S0")).startswith("1 ")
    assert await shard.one("release", "r", owner="Okey2") == "-8 opener"
    assert await shard.one("reserve", "r", HELD, owner="abc12") != "-8 opener"
    assert (await shard.one("commit", "r", 7, owner="OKey9S0")).startswith("1 ")


@pytest.mark.parametrize("owner", ["O", "xOkey1", "acxOkey1", "OOkey-1", "cc Okey1", "Okey1 "])
@pytest.mark.parametrize("kind", ["commit", "release", "touch"])
async def test_an_asker_that_cannot_be_read_may_nothing(
    shard: ScriptedShard, kind: str, owner: str
) -> None:
    await put(shard, "r", "own")
    before = await shard.state()
    assert await shard.one(kind, "r", 5, owner=owner) == "-3 owner"
    assert await shard.state() == before


@pytest.fixture
async def caller(redis: Redis, redis_url: str) -> AsyncIterator[Caller]:
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    for account in ("acme/ann", "acme/bob"):
        await shard.load(account, FUNDS)
    async with await Meter.connect(redis_url) as meter:
        sidecar = create_sidecar(meter, keys=Ring())
        async with served(sidecar) as url, calling(url) as made:
            yield made


async def ask(caller: Caller, key: str, kind: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = {"org_id": "acme", "user_id": "ann", "request_id": "r", **fields}
    answer = await caller.client.post(
        f"/v1/{kind}", json=body, headers={"Authorization": f"Bearer {key}"}
    )
    return answer.status_code, answer.json()


OPERATIONS = ("reserve", "commit", "release", "charge", "touch")


def kinds_of_key() -> Iterator[frozenset[str]]:
    for size in range(1, len(OPERATIONS) + 1):
        yield from map(frozenset, combinations(OPERATIONS, size))


@pytest.mark.slow
async def test_every_kind_of_key_against_every_operation(caller: Caller) -> None:
    """What is not in a key is refused before anything else; what is, is confined to its holds."""
    number = 0
    for operations in kinds_of_key():
        for extra in (frozenset[str](), frozenset((ANY_HOLD,))):
            key = "+".join(sorted(operations | extra)) + "@gateway"
            for opened_by in ("gateway", "another"):
                for kind in OPERATIONS:
                    number += 1
                    request = f"r{number}"
                    opening = f"reserve@{opened_by}"
                    if kind not in ("reserve", "charge"):
                        status, _ = await ask(
                            caller, opening, "reserve", request_id=request, amount_millicredits=HELD
                        )
                        assert status == 200
                    above = {} if kind == "release" else {"amount_millicredits": HELD + 1}
                    status, body = await ask(caller, key, kind, request_id=request, **above)
                    foreign = opened_by != "gateway" and not extra
                    if kind not in operations:
                        assert (status, body["error"]["details"]) == (403, {"field": "op"})
                    elif kind in ("reserve", "charge"):
                        assert status == 200
                    elif foreign:
                        assert (status, body["error"]["details"]) == (403, {"right": "opener"})
                    elif kind in ("commit", "touch") and "charge" not in operations:
                        right = "charge" if kind == "commit" else "progress"
                        assert (status, body["error"]["details"]) == (403, {"right": right})
                    else:
                        assert status == 200, (key, kind, body)


async def test_a_hold_of_a_process_is_ended_by_no_key(caller: Caller) -> None:
    await ask(caller, "everything", "reserve", amount_millicredits=HELD)
    for key in ("release@x", "commit@x", "touch@x", "+".join(OPERATIONS) + "@x"):
        for kind in ("release", "commit", "touch"):
            amount = {} if kind == "release" else {"amount_millicredits": 0}
            status, _ = await ask(caller, key, kind, **amount)
            assert status == 403
    # Nor by way of a batch or of forward auth.
    one = {"org_id": "acme", "user_id": "ann", "request_id": "r", "op": "release"}
    batch = await caller.client.post(
        "/v1/batch", json={"operations": [one]}, headers={"Authorization": "Bearer release@x"}
    )
    assert batch.json()["results"][0]["status"] == 403
    gate = {"X-Org-Id": "acme", "X-User-Id": "ann", "X-Request-Id": "r"}
    for settled in ({"X-Taximeter-Status": "500"}, {"X-Taximeter-Cost": "0"}):
        key = {"X-Taximeter-Key": "commit+release@x"}
        answer = await caller.client.get("/auth/settle", headers={**gate, **settled, **key})
        assert answer.status_code == 403, answer.text
    status, _ = await ask(caller, "everything", "commit", amount_millicredits=HELD)
    assert status == 200


async def test_a_key_that_replaces_another_goes_on_with_its_holds(caller: Caller) -> None:
    await ask(caller, "reserve@gateway", "reserve", amount_millicredits=HELD)
    status, body = await ask(caller, "commit@gateway", "commit", amount_millicredits=120)
    assert (status, body["charged_millicredits"]) == (200, 120)


async def test_another_users_request_is_told_to_nobody(caller: Caller) -> None:
    await ask(caller, "reserve@gateway", "reserve", user_id="bob", amount_millicredits=777)
    for kind in OPERATIONS:
        amount = {} if kind == "release" else {"amount_millicredits": 1}
        status, body = await ask(caller, f"{kind}@ann/ann", kind, **amount)
        assert (status, body["error"]["code"]) == (409, "CONFLICT")
        assert "777" not in str(body)
        assert body["error"]["details"] == {"request_id": "r"}


async def test_what_leaves_an_account_far_below_zero_is_reported_each_time(
    redis: Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    await shard.load("acme/ann", 1_000)
    async with await Meter.connect(
        redis_url, settings=MeterSettings(overdraft_report=500)
    ) as meter:
        hold = await meter.reserve("acme", "ann", 1_000, request_id="open")
        await hold.commit(1_500)  # As far below zero as nobody minds.
        assert not caplog.records
        await meter.commit("acme", "ann", "late", 1)
        await meter.commit("acme", "ann", "later", 700)
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
        assert "request later, 700 millicredits, leaves account acme/ann at -1201" in caplog.text
        assert meter.overdrafts == 2
        with pytest.raises(NotAllowed):
            await meter.commit("acme", "ann", "x", 1, asker=Asker("key1"))
        assert meter.overdrafts == 2
