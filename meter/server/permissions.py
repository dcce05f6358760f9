"""Lists what a Redis user must be allowed to do: one table for the rules that an operator gives
to Redis, and for the question that every process asks before its first script.

Redis checks permissions command by command, also inside a script, and undoes nothing when one is
refused. A user who lacks XADD would change balances without events; so nobody starts with less than
all of it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from redis.exceptions import NoPermissionError

from taximeter.meter.places.places import name_of
from taximeter.meter.wire.errors import StoreError
from taximeter.meter.wire.replies import text_of
from taximeter.meter.wire.scripts import load_script

# A valid call of each command, `*` for a key: what Redis needs to know which keys it is about.
_EXAMPLES: Final = {
    "EXISTS": "EXISTS *",
    "HDEL": "HDEL * f",
    "HGET": "HGET * f",
    "HGETALL": "HGETALL *",
    "HLEN": "HLEN *",
    "HMGET": "HMGET * f",
    "HSCAN": "HSCAN * 0",
    "HSET": "HSET * f v",
    "LINDEX": "LINDEX * 0",
    "LLEN": "LLEN *",
    "LTRIM": "LTRIM * 0 1",
    "PEXPIRE": "PEXPIRE * 1",
    "RENAME": "RENAME * *",
    "RPUSH": "RPUSH * v",
    "TIME": "TIME",
    "UNLINK": "UNLINK *",
    "XADD": "XADD * 1-1 f v",
    "XRANGE": "XRANGE * - +",
    "XREVRANGE": "XREVRANGE * + -",
    "XTRIM": "XTRIM * MINID 1-1",
    "ZADD": "ZADD * 1 m",
    "ZCARD": "ZCARD *",
    "ZCOUNT": "ZCOUNT * 0 1",
    "ZRANGE": "ZRANGE * 0 1",
    "ZRANGEBYSCORE": "ZRANGEBYSCORE * 0 1",
    "ZREM": "ZREM * m",
    "ZSCORE": "ZSCORE * m",
    "XINFO|STREAM": "XINFO STREAM *",
    "INFO": "INFO server",
    "WAIT": "WAIT 0 1",
    "WAITAOF": "WAITAOF 0 0 1",
    "CLUSTER|INFO": "CLUSTER INFO",
    "CLUSTER|SLOTS": "CLUSTER SLOTS",
    "ASKING": "ASKING",
}
_CONNECTION: Final = ("ping", "hello", "client|setinfo", "client|setname", "select", "auth")
_IN_A_CLUSTER: Final = ("CLUSTER|INFO", "CLUSTER|SLOTS", "ASKING")

OLDEST_SERVER: Final = (7, 0)
NEWEST_RULES: Final = (7, 2)
_SINCE_7_2: Final = frozenset(("client|setinfo", "waitaof"))
"""Redis before 7.2 does not know them, and would refuse the whole line. Every Valkey does."""

_TOO_MUCH: Final = "CONFIG GET requirepass"
"""Whoever may ask this reads the password of the administrator."""

logger = logging.getLogger("taximeter.meter")


class MissingPermission(StoreError):
    """The Redis user may not do all that this process does. Nothing was done."""

    def __init__(self, user: str, commands: Iterable[str], server: str = "") -> None:
        """`server` is its name where there are several."""
        self.commands = tuple(commands)
        where = f" on {server}" if server else ""
        super().__init__(
            f"the Redis user {user!r} lacks a permission{where} ({', '.join(self.commands)}); "
            "`taximeter acl` prints the rules that it needs"
        )


@dataclass(frozen=True, slots=True)
class Role:
    """A kind of process: the scripts that it runs, the commands it sends besides, and those that
    it can do without.
    """

    name: str
    scripts: tuple[str, ...]
    commands: tuple[str, ...]
    optional: tuple[str, ...] = ()
    other_keys: tuple[str, ...] = ()
    """Patterns of keys besides those of the shards, after the prefix."""

    @property
    def needed(self) -> list[str]:
        """Every command, those inside of the scripts included."""
        inside = (_commands_in(script) for script in (*self.scripts, "permissions"))
        return sorted({*self.commands}.union(*inside))

    def commands_for(self, server: tuple[int, ...] = NEWEST_RULES) -> list[str]:
        """Every command that such a user may send to a server of this version, in lower case."""
        own = ("eval", "evalsha", "multi", "exec", *_CONNECTION)
        sent = (*own, *_IN_A_CLUSTER, *self.needed, *self.optional)
        allowed = dict.fromkeys(command.lower() for command in sent)
        return [one for one in allowed if server >= (7, 2) or one not in _SINCE_7_2]

    def rules(self, prefix: str, server: tuple[int, ...] = NEWEST_RULES) -> str:
        """What ACL SETUSER of a server of this version takes for such a user, but for its
        password.
        """
        allowed = " ".join(f"+{command}" for command in self.commands_for(server))
        patterns = (f"{{{prefix}:*}}:*", *(f"{prefix}{keys}" for keys in self.other_keys))
        keys = " ".join(f"~{pattern}" for pattern in patterns)
        return f"resetkeys {keys} resetchannels -@all {allowed}"


@cache
def _commands_in(script: str) -> frozenset[str]:
    """Looked for once: every connection asks."""
    return frozenset(re.findall(r"\bcall\('([A-Z]+)'", load_script(script).text))


METER: Final = Role(
    "meter",
    ("operate", "resolve", "load", "snapshot", "barrier", "report"),
    ("HGET", "HMGET", "INFO"),
    ("WAIT", "WAITAOF"),
)
"""A gateway or a sidecar."""
API: Final = Role(
    "api",
    (*METER.scripts, "limit"),
    (*METER.commands, "EXISTS", "HGETALL", "HLEN", "TIME", "XINFO|STREAM", "XRANGE"),
    (*METER.optional, "HSCAN", "ZSCORE"),
    (":limit:*",),
)
"""The API, which also shows how far each shard is settled, and what running requests hold."""
SETTLER: Final = Role(
    "settler",
    (
        *("admit", "apply", "approve", "complete", "drain", "fence", "load"),
        *("open", "operate", "recount", "resolve", "rotate", "snapshot", "sweep"),
    ),
    (
        *("EXISTS", "HGET", "HGETALL", "HLEN", "HMGET", "HSCAN", "HSET", "INFO", "TIME"),
        *("UNLINK", "XINFO|STREAM", "XRANGE", "XTRIM", "ZADD", "ZSCORE"),
    ),
)
"""The settler, and the commands of operators: check, rebuild, reshard."""
ROLES: Final = {role.name: role for role in (METER, API, SETTLER)}


async def check_permissions(redis: Any, role: Role, key: str, *, on_replica: bool = False) -> None:
    """Ask the server what the connected user may not do; `key` is any key of ours. A user of its
    own that may do far too much is named in the log. A replica of a cluster, which sends everybody
    away who names a key, is asked for what it would allow.

    Raises MissingPermission, redis errors.
    """
    script = load_script("permissions")
    server = name_of(redis)
    needed = (*role.needed, *(_IN_A_CLUSTER if server else ()))
    asked = [*(_EXAMPLES[command] for command in needed), _TOO_MUCH]
    try:
        if on_replica:
            refused = await script.call(redis, [], [one.replace("*", key) for one in asked])
        else:
            refused = await script.call(redis, [key], asked)
    except NoPermissionError as error:
        raise missing_permission(user_of(redis), error, server) from error
    missing = {text_of(command) for command in refused}
    if _TOO_MUCH not in missing and user_of(redis) != "default":
        logger.warning(
            "the Redis user %r may run CONFIG, hence read the administrator's password: give it "
            "the rules that `taximeter acl` prints",
            user_of(redis),
        )
    missing.discard(_TOO_MUCH)
    if missing:
        names = sorted(each.split(" ")[0] for each in missing)
        raise MissingPermission(user_of(redis), names, server)


def missing_permission(user: str, error: NoPermissionError, server: str = "") -> MissingPermission:
    """The same for a command that was refused as it was sent."""
    return MissingPermission(user or "default", [str(error)], server)


def user_of(redis: Any) -> str:
    """The name that a client logs in with."""
    return str(redis.connection_pool.connection_kwargs.get("username") or "default")
