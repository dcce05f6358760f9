"""Says how durable an acknowledged charge is on this Redis server, as the server is set up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.exceptions import ResponseError

from taximeter.meter.places.places import Places, name_of
from taximeter.meter.server.trouble import within
from taximeter.meter.settings import Durability
from taximeter.meter.wire.errors import StoreUnavailable
from taximeter.meter.wire.replies import text_of
from taximeter.meter.wire.scripts import load_script
from taximeter.meter.wire.waits import Waits

_MODES: Final = {
    "M0": "An answer is in memory alone: any restart of Redis loses what was not settled yet.",
    "M1": "An answer survives the end of the Redis process. Loss of power loses about the last "
    "second of answers that were not settled yet.",
    "M2": "An answer is on the server's disk and survives loss of power.",
    "M3": "An answer survives the end of the Redis process. A failover loses what had not reached "
    "the replica, loss of power about the last second.",
    "M4": "A charge is in the memory of a replica before it is answered. It is lost when another "
    "replica is promoted, or when both lose power at once.",
    "M5": "A charge is on the disks of this server and of a replica before it is answered.",
    "?": "How often the AOF is synced is not for this user to read, and TAXIMETER_DURABILITY does "
    "not say it.",
}
_WEAKEST_FIRST: Final = ("M0", "?", "M1", "M2", "M3", "M4", "M5")
_BY_WORD: Final = " (That appendfsync is {}, TAXIMETER_DURABILITY says: this user may not read it.)"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server as it describes itself; None where it does not say."""

    product: str
    version: str
    is_primary: bool
    append_only: bool
    appendfsync: str | None
    eviction: str | None
    maxmemory: int
    replicas: int
    run_id: str = ""

    def objections(self, durability: Durability = "none") -> list[str]:
        """Why credits must not be kept on this server, in words; empty when they may be."""
        found = []
        if not self.is_primary:
            found.append("it is a replica: its writes would be undone")
        if self.eviction not in (None, "noeviction"):
            found.append(
                f"maxmemory-policy is {self.eviction}: it would drop balances and unsettled "
                "charges; set it to noeviction"
            )
        if durability != "none" and not self.append_only:
            found.append(
                f"appendonly is off, and TAXIMETER_DURABILITY is {durability}: a restart would "
                "lose what is not settled; switch the AOF on (redis-cli CONFIG SET appendonly yes, "
                "then CONFIG REWRITE), or set TAXIMETER_DURABILITY=none"
            )
        elif durability == "always" and self.appendfsync not in (None, "always"):
            found.append(f"appendfsync is {self.appendfsync}, and TAXIMETER_DURABILITY is always")
        return found

    def promise(self, waits: Waits | None = None, durability: Durability = "none") -> str:
        """The mode that holds (as docs/promises.md names it) and what it means.

        Where this user may not read how often the AOF is synced, as none of `taximeter acl` may,
        the operator's word in `durability` is taken for it, and the sentence says so.
        """
        word = None if durability == "none" else durability
        mode = self._mode(waits, self.appendfsync or word)
        believed = mode != self._mode(waits, self.appendfsync)
        return f"{mode}: {_MODES[mode]}{_BY_WORD.format(word) if believed else ''}"

    def _mode(self, waits: Waits | None, appendfsync: str | None) -> str:
        commit = waits.commit if waits else "none"
        if commit == "replica-fsync":
            return "M5"
        if commit == "replica":
            return "M4"
        if not self.append_only:
            return "M0"
        if appendfsync == "always" or commit == "fsync":
            return "M2"
        if appendfsync is None:
            return "?"
        return "M3" if self.replicas else "M1"


def weakest_promise(
    servers: Mapping[str, ServerFacts | None],
    waits: Waits | None = None,
    durability: Durability = "none",
) -> str:
    """What holds on all of these servers, by their names; None for one that did not answer, which
    at least one did. Names those that promise less than the others.
    """
    said = {
        name: facts.promise(waits, durability)
        for name, facts in servers.items()
        if facts is not None
    }
    least = min(said.values(), key=lambda one: _WEAKEST_FIRST.index(one.partition(":")[0]))
    if len(servers) == 1:
        return least
    weak = [name for name, one in said.items() if one == least]
    words = f"On each of {len(said)} servers"
    if len(weak) < len(said):
        words = f"So on {', '.join(sorted(weak))}; the other {len(said) - len(weak)} promise more"
    away = sorted(servers.keys() - said.keys())
    if away:
        words += f"; {', '.join(away)} did not answer"
    return f"{least} ({words}.)"


async def read_all_facts(
    places: Places, keys: Iterable[str], timeout_s: float
) -> dict[str, ServerFacts | None]:
    """Ask every server that has one of these keys, all at once; None for one that does not answer
    in time. Raises StoreUnavailable when none does.
    """
    found: dict[str, Any] = {}
    for key in keys:
        with suppress(ResponseError):  # Nobody has it.
            place = places.of(key)
            found[name_of(place)] = place

    async def ask(place: Any) -> ServerFacts | StoreUnavailable:
        try:
            async with within(timeout_s):
                return await read_facts(place)
        except StoreUnavailable as error:
            return error

    answers = await asyncio.gather(*map(ask, found.values()))
    troubles = [one for one in answers if isinstance(one, StoreUnavailable)]
    if len(troubles) == len(answers):
        raise troubles[0] if troubles else StoreUnavailable("no server has a shard")
    return {
        name: None if isinstance(one, StoreUnavailable) else one
        for name, one in zip(found, answers, strict=True)
    }


async def read_facts(redis: Any) -> ServerFacts:
    """Ask a `redis.asyncio.Redis`. Only CONFIG knows how often the AOF is synced, and whoever may
    run it is as good as the server's administrator: None for all others. Raises redis-py's errors.
    """
    info = await redis.info("everything")
    config = await read_config(redis, "appendfsync")
    return ServerFacts(
        product=str(info.get("server_name") or "redis"),
        version=str(info.get("valkey_version") or info.get("redis_version")),
        is_primary=info.get("role") == "master",
        append_only=bool(int(info.get("aof_enabled", 0))),
        appendfsync=config.get("appendfsync"),
        eviction=info.get("maxmemory_policy"),
        maxmemory=int(info.get("maxmemory", 0)),
        replicas=int(info.get("connected_slaves", 0)),
        run_id=str(info.get("run_id", "")),
    )


async def read_config(redis: Any, *names: str) -> dict[str, str]:
    """What this user may read of these settings. Raises redis-py's errors."""
    # A refusal would stand in the server's ACL LOG each time: look before asking.
    asked = [f"CONFIG GET {name}" for name in names]
    if await load_script("permissions").call(redis, [], asked):
        return {}
    try:
        answer = await redis.config_get(*names)
    except ResponseError:  # It is switched off, or renamed, as managed services do.
        return {}
    return {text_of(key): text_of(value) for key, value in cast("dict[Any, Any]", answer).items()}
