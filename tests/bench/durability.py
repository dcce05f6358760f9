"""What each promise of docs/promises.md costs, and what was lost when its server was killed in the
middle of the charges.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from redis.asyncio import Redis

from bench.harness import BenchFailed, Figure, Spread
from bench.live import LiveShards, make_accounts
from bench.servers import Servers
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import Meter, MeterError, MeterSettings
from taximeter.meter.wire.waits import Wait

CALLERS: Final = 100
AMOUNT: Final = 1
_REPLICA_S_MAX: Final = 20.0

Disaster = Literal["restarted", "primary lost, replica left", "both killed, replica restarted"]


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to keep what was answered, and how its server comes to harm."""

    name: str
    disaster: Disaster
    appendfsync: str = "everysec"
    append_only: bool = True
    commit_wait: Wait = "none"

    @property
    def has_replica(self) -> bool:
        return self.disaster != "restarted"


BASELINE: Final = "M1"
MODES: Final = (
    Mode("M0", "restarted", append_only=False),
    Mode(BASELINE, "restarted"),
    Mode("M2", "restarted", appendfsync="always"),
    Mode("M2 by fsync wait", "restarted", commit_wait="fsync"),
    Mode("M3", "primary lost, replica left"),
    Mode("M4", "primary lost, replica left", commit_wait="replica"),
    Mode(
        "M5",
        "both killed, replica restarted",
        appendfsync="always",
        commit_wait="replica-fsync",
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One round: charges answered a second, how many in all, and how many of them were gone."""

    rate: float
    answered: int
    missing: int


async def run(servers: Servers) -> list[Figure]:
    """Each mode in turn, on servers of its own; every round ends with kill -9 under load."""
    outcomes: dict[str, list[Outcome]] = {mode.name: [] for mode in MODES}
    for round_number in range(servers.scale.rounds):
        for mode in MODES:
            folder = servers.data_dir / "durability" / f"{round_number}-{mode.name}"
            outcomes[mode.name].append(await _round(folder, mode, servers.scale.round_s))
    rates = {
        name: Spread(tuple(outcome.rate for outcome in found)) for name, found in outcomes.items()
    }
    return [
        Figure(
            f"durability_{mode.name.replace(' ', '_')}",
            f"charges, {CALLERS} callers, {mode.name}",
            "/s",
            rates[mode.name],
            rates[BASELINE],
            f"{BASELINE}, AOF everysec",
            note=_note(mode, outcomes[mode.name]),
        )
        for mode in MODES
    ]


def _note(mode: Mode, found: list[Outcome]) -> str:
    answered = sum(outcome.answered for outcome in found)
    missing = [outcome.missing for outcome in found]
    return (
        f"{mode.disaster} {len(found)} times: {sum(missing):,} of {answered:,} answered charges"
        f" gone, at most {max(missing):,} at once"
    )


async def _round(folder: Path, mode: Mode, seconds: float) -> Outcome:
    shutil.rmtree(folder, ignore_errors=True)  # A run that was killed leaves its data.
    with ExitStack() as stack:

        def started(name: str, *arguments: str) -> EmbeddedValkey:
            server = EmbeddedValkey(folder / name, arguments, append_only=mode.append_only)
            return stack.enter_context(server)

        primary = started("primary", "--appendfsync", mode.appendfsync)
        redis = Redis.from_url(primary.url)
        live = LiveShards(redis, "tmbench", make_accounts(CALLERS, 10))
        await live.reset()
        survivor = primary
        if mode.has_replica:
            survivor = started(
                "replica",
                *("--replicaof", "127.0.0.1", str(primary.port)),
                *("--appendfsync", mode.appendfsync),
            )
            await _in_step(survivor)
        answered, elapsed = await _charge_until_killed(primary, live, mode, seconds)
        await redis.aclose()
        if mode.disaster == "both killed, replica restarted":
            survivor.kill()
        if survivor is primary or mode.disaster == "both killed, replica restarted":
            survivor.start()
        kept = await _kept(survivor, live)
    return Outcome(len(answered) / elapsed, len(answered), len(answered - kept))


async def _charge_until_killed(
    primary: EmbeddedValkey, live: LiveShards, mode: Mode, seconds: float
) -> tuple[set[str], float]:
    """Charge for `seconds`, then kill the server while everybody goes on; returns the ids that
    were answered before the kill, and how long that took.
    """
    settings = MeterSettings(
        key_prefix=live.prefix,
        commit_wait=mode.commit_wait,
        take_timeout_s=2.0,
        close_timeout_s=0,
    )
    answered: set[str] = set()
    meter = await Meter.connect(primary.url, settings=settings)
    numbers = itertools.count()

    async def caller(org_id: str, user_id: str) -> None:
        while True:
            receipt = await meter.charge(org_id, user_id, AMOUNT, request_id=f"c{next(numbers)}")
            answered.add(f"{org_id}/{receipt.request_id}")

    callers = [asyncio.create_task(caller(*account)) for account in live.accounts]
    started = time.monotonic()
    await asyncio.sleep(seconds)
    failed = [task for task in callers if task.done()]
    await asyncio.to_thread(primary.kill)
    elapsed = time.monotonic() - started
    results = await asyncio.gather(*callers, return_exceptions=True)
    await meter.aclose()
    if failed or not all(isinstance(result, MeterError) for result in results):
        raise BenchFailed(f"{mode.name}: a caller stopped before the kill: {results[0]!r}")
    return answered, elapsed


async def _kept(server: EmbeddedValkey, live: LiveShards) -> set[str]:
    """`org/request` of every event that the server has."""
    redis = Redis.from_url(server.url)
    entries = await redis.xrange(live.keys(0).events)
    await redis.aclose()
    return {
        line.split(b"\t")[2].decode()
        for _, fields in entries
        for line in fields[b"v1"].split(b"\n")
    }


async def _in_step(replica: EmbeddedValkey) -> None:
    redis = Redis.from_url(replica.url)
    async with asyncio.timeout(_REPLICA_S_MAX):
        while True:
            info = await redis.info("everything")
            # A fresh replica rewrites its file, and confirms no fsync before that is done.
            rewriting = info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"]
            if info["master_link_status"] == "up" and not rewriting:
                break
            await asyncio.sleep(0.02)
    await redis.aclose()
