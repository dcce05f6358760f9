"""What a hold keeps of its payload, and what becomes of it: the same in Lua and in Python."""

from __future__ import annotations

import json
import random

import pytest
from support.shard import ScriptedShard, op, text

from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.payload_codes import CODES, FACTS, NAME_AGAIN, coded, plain
from taximeter.meter.wire.usage import Usage
from taximeter.settler.settling.payloads import read_payload

ROUTE = Usage("llm_inference", "gpt-4o-mini", {"model": "gpt-4o-mini", "estimated": True}).payload()
PAYLOADS = [
    ROUTE,
    Usage("llm_inference", 'a"b', {"model": 'a"b', "estimated": True}).payload(),
    Usage("llm_inference", "100%1", {"model": "100%1", "note": '\\"100%1"'}).payload(),
    Usage("llm_inference", "", {"model": "", "estimated": True}).payload(),
    Usage("llm_inference", "é\x7f\x01", {"provider": "openai", "model": "é"}).payload(),
    Usage("images", "m", {"provider": "azure", "model": "m", "estimated": True}).payload(),
    Usage("x", "m", {"a": '"model":', "b": '{"type":"llm_inference","name":"'}).payload(),
    '{"type":"llm_inference","name":"',
    "{}",
    "not JSON",
    "\x02 of somebody else",
    "\x1fcounters 3,17\x1f" + ROUTE,
]


def made_up(dice: random.Random) -> str:
    pieces = [*CODES.values(), "gpt", '"gpt"', "\\", '"', "%", "é", "\x7f", "\x00", "\x05", " "]
    words = ["".join(dice.choices(pieces, k=dice.randrange(5))) for _ in range(4)]
    name = dice.choice(["gpt", words[0]])
    kind = dice.choice(["llm_inference", words[1]])
    return Usage(kind, name, {"model": dice.choice([name, words[2]]), words[3]: name}).payload()


def test_every_payload_is_read_back_as_it_was() -> None:
    dice = random.Random(16)
    for payload in [ROUTE, *(made_up(dice) for _ in range(3_000))]:
        kept = coded(payload)
        assert plain(kept) == payload
        assert len(kept) <= len(payload)
        assert read_payload(kept) == read_payload(payload)
    assert len(coded(ROUTE)) == 17


def test_codes_are_no_characters_that_a_record_needs_or_json_may_have() -> None:
    assert not {*CODES, NAME_AGAIN, FACTS} & {"\t", "\n", "\r", "\x00", "\x01"}
    assert all(ord(code) < 32 for code in (*CODES, NAME_AGAIN, FACTS))


async def test_events_are_plain_json_whatever_holds_keep(shard: ScriptedShard) -> None:
    requests = [f"r{number}" for number in range(len(PAYLOADS))]
    kept = [coded(payload) for payload in PAYLOADS]
    await shard.batch(
        *(op("reserve", *each) for each in zip(requests, [1] * len(kept), strict=True)),
        *(
            op("touch", request, 1, payload=payload)
            for request, payload in zip(requests, kept, strict=True)
        ),
    )
    for request, payload in zip(requests, kept, strict=True):
        record = text(await shard.redis.hget(shard.keys.holds, f"org/{request}"))
        assert record.split("\t", 4)[4] == payload
        assert HoldRecord.parse(record).payload == plain(payload)
        assert HoldRecord.parse(HoldRecord.parse(record).text()).payload == plain(payload)
    half = len(requests) // 2
    await shard.one("commit", requests[0], 1)
    await shard.batch(*(op("commit", request, 1) for request in requests[1:half]))
    for request in requests[half:]:
        await shard.overdue(request)
    assert (await shard.sweep())[:2] == [len(requests) - half] * 2
    found = {event[3].removeprefix("org/"): event[-1] for event in await shard.events()}
    assert found == dict(zip(requests, map(plain, kept), strict=True))
    assert all(json.loads(found[request]) for request in requests[:7])


async def test_a_charge_has_no_codes(shard: ScriptedShard) -> None:
    await shard.one("charge", "c", 1, payload=coded(ROUTE))
    await shard.one("commit", "late", 1, payload=coded(ROUTE))
    assert [event[-1] for event in await shard.events()] == [ROUTE, ROUTE]


@pytest.mark.parametrize("said", [None, "2"])
async def test_a_hold_has_no_codes_that_the_settlers_do_not_know(
    shard: ScriptedShard, said: str | None
) -> None:
    await shard.redis.hdel(shard.keys.meta, "payload_codes")
    if said:
        await shard.redis.hset(shard.keys.meta, "payload_codes", said)
    await shard.one("reserve", "r", 5, payload=coded(ROUTE))
    await shard.one("touch", "r", 1, payload=coded(PAYLOADS[5]))
    assert text(await shard.redis.hget(shard.keys.holds, "org/r")).endswith("\t" + PAYLOADS[5])


async def test_what_a_later_release_puts_before_a_payload_stays(shard: ScriptedShard) -> None:
    """Room for the counters of budgets: a touch changes what the hold is for, and not those."""
    facts = f"{FACTS}counters 3,17{FACTS}"
    await shard.one("reserve", "r", 5, payload=facts + coded(ROUTE))
    await shard.one("touch", "r", 1, payload=coded(PAYLOADS[5]))
    record = text(await shard.redis.hget(shard.keys.holds, "org/r"))
    assert record.endswith(f"\t{facts}{coded(PAYLOADS[5])}")
    await shard.one("commit", "r", 3)
    assert [event[-1] for event in await shard.events()] == [PAYLOADS[5]]
