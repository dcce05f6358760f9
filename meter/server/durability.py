"""Says how durable an acknowledged charge is on this Redis server, as the server is set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

from redis.exceptions import ResponseError

from taximeter.meter.settings import Durability
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


async def read_facts(redis: Any) -> ServerFacts:
    """Ask a `redis.asyncio.Redis`. Only CONFIG knows how often the AOF is synced, and whoever may
    run it is as good as the server's administrator: None for all others. Raises redis-py's errors.
    """
    info = await redis.info("everything")
    config = await _config(redis, "appendfsync")
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


async def _config(redis: Any, name: str) -> dict[str, str]:
    # A refusal would stand in the server's ACL LOG each time: look before asking.
    if await load_script("permissions").call(redis, [], [f"CONFIG GET {name}"]):
        return {}
    try:
        answer = await redis.config_get(name)
    except ResponseError:  # It is switched off, or renamed, as managed services do.
        return {}
    return {text_of(key): text_of(value) for key, value in cast("dict[Any, Any]", answer).items()}
