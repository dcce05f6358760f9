"""Fills shards quickly, through the script that does it in production."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

from hiredis import pack_command

from bench.harness import BenchFailed
from bench.live import Account, LiveShards, request_ids
from bench.peers import AMOUNT, HELD, PAYLOADS
from taximeter.meter.wire.keys import shard_of
from taximeter.meter.wire.payload_codes import coded
from taximeter.meter.wire.scripts import load_script

IN_FLIGHT: Final = 4
PER_CALL: Final = 100
"""Operations of one call, as a busy gateway sends them; the entries of the stream have this size.
"""
HOLD_TTL_MS: Final = 3_600_000
ESTIMATE: Final = coded(
    '{"type":"llm_inference","name":"gpt-4o-mini","meta":'
    '{"provider":"openai","model":"gpt-4o-mini","estimated":true}}'
)
"""What the LLM route writes into a hold, and a provider, as it travels."""


def charges(accounts: Sequence[Account], count: int, label: str) -> Iterator[list[Any]]:
    """As many charges, going round the accounts; ids begin with `label`."""
    payloads = itertools.cycle(PAYLOADS)
    turn = zip(itertools.cycle(accounts), request_ids(label), payloads, strict=False)
    for (org_id, user_id), request_id, payload in itertools.islice(turn, count):
        account = f"{org_id}/{user_id}"
        yield ["charge", account, f"{org_id}/{request_id}", AMOUNT, 0, "", payload]


def reserves(
    accounts: Sequence[Account],
    count: int,
    label: str,
    payload: str,
    *,
    ttl_ms: int = HOLD_TTL_MS,
) -> Iterator[list[Any]]:
    """As many holds that stay open for an hour, unless they are to expire sooner."""
    turn = zip(itertools.cycle(accounts), request_ids(label), strict=False)
    for (org_id, user_id), request_id in itertools.islice(turn, count):
        account, key = f"{org_id}/{user_id}", f"{org_id}/{request_id}"
        yield ["reserve", account, key, HELD, ttl_ms, "0a0b0c0d", payload]


async def fill(live: LiveShards, operations: Iterator[list[Any]], per_call: int = PER_CALL) -> int:
    """Run all of them, each of which must be answered OK. Returns how many there were."""
    script = load_script("operate")
    connection = live.redis.connection_pool.make_connection()
    await connection.connect()
    epoch = {shard: await _epoch(live, shard) for shard in range(live.shards)}
    in_flight: deque[int] = deque()
    done = 0

    async def read_one() -> int:
        size = in_flight.popleft()
        *replies, _ = await connection.read_response(disable_decoding=True)
        refused = [reply for reply in replies if not reply.startswith(b"1 ")]
        if refused or len(replies) != size:
            raise BenchFailed(f"filling was answered {refused[:3]!r}")
        return size

    try:
        for shard, batch in _by_shard(operations, live.shards, per_call):
            keys = live.keys(shard).batch()
            arguments = [argument for operation in batch for argument in operation]
            packed = pack_command(
                ("EVALSHA", script.sha, len(keys), *keys, epoch[shard], *arguments)
            )
            await connection.send_packed_command(packed, check_health=False)
            in_flight.append(len(batch))
            if len(in_flight) >= IN_FLIGHT:
                done += await read_one()
        while in_flight:
            done += await read_one()
    finally:
        await connection.disconnect(nowait=True)
    return done


async def _epoch(live: LiveShards, shard: int) -> bytes:
    await live.redis.script_load(load_script("operate").text)
    epoch: bytes = await live.redis.hget(live.keys(shard).meta, "epoch")
    return epoch


def _by_shard(
    operations: Iterator[list[Any]], shards: int, per_call: int
) -> Iterator[tuple[int, list[list[Any]]]]:
    """The operations in calls, each for one shard."""
    waiting: list[list[list[Any]]] = [[] for _ in range(shards)]
    for operation in operations:
        shard = shard_of(operation[1].partition("/")[0], shards)
        waiting[shard].append(operation)
        if len(waiting[shard]) == per_call:
            yield shard, waiting[shard]
            waiting[shard] = []
    for shard, rest in enumerate(waiting):
        if rest:
            yield shard, rest
