"""A Redis in memory, with the commands that our scripts use, that can be copied and compared.

It runs nothing of its own accord and knows one time, which is given to it. `test_store` compares it
with a real server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redis.exceptions import ResponseError

Reply = Any
"""What a command answers: str, int, None or a list of these."""
Id = tuple[int, int]


class Store:
    """Keys and values. `clock_ms` is what TIME says, `run_id` and `replid` what INFO says, `oom`
    that memory is out. A copy shares nothing that changes.
    """

    __slots__ = ("_frozen", "clock_ms", "hashes", "oom", "replid", "run_id", "streams", "zsets")

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, str]] = {}
        self.zsets: dict[str, dict[str, int]] = {}
        self.streams: dict[str, tuple[Id, list[tuple[Id, tuple[str, ...]]]]] = {}
        self.clock_ms = 1_700_000_000_000
        self.run_id = self.replid = 1
        self.oom = False
        self._frozen: object = None

    def copy(self) -> Store:
        made = Store.__new__(Store)
        made.hashes = {key: dict(value) for key, value in self.hashes.items()}
        made.zsets = {key: dict(value) for key, value in self.zsets.items()}
        made.streams = {key: (last, list(items)) for key, (last, items) in self.streams.items()}
        made.clock_ms, made.run_id, made.oom = self.clock_ms, self.run_id, self.oom
        made.replid = self.replid
        made._frozen = None
        return made

    def frozen(self) -> tuple[object, ...]:
        """What is equal for two stores that behave alike. Moments count from now, and the time of
        an entry not at all. Only for one that is not changed any more.
        """
        if self._frozen is None:
            hashes = tuple(
                (key, tuple(sorted(self._lasting(value))))
                for key, value in sorted(self.hashes.items())
            )
            zsets = tuple(
                (key, tuple(sorted((m, s - self.clock_ms) for m, s in value.items())))
                for key, value in sorted(self.zsets.items())
            )
            streams = tuple(
                (key, last, tuple((at, fields[2:]) for at, fields in items))
                for key, (last, items) in sorted(self.streams.items())
            )
            self._frozen = (hashes, zsets, streams, self.run_id, self.replid, self.oom)
        return self._frozen  # type: ignore[return-value]

    def _lasting(self, fields: dict[str, str]) -> Iterator[tuple[str, object]]:
        for name, value in fields.items():
            if name == "complete_ms":
                yield name, str(int(value) - self.clock_ms)
            elif not name.endswith("_ms"):
                yield name, value

    def call(self, *arguments: str) -> Reply:
        """Run one command. Raises ResponseError."""
        command = _COMMANDS.get(arguments[0].upper())
        if command is None:
            raise ResponseError(f"ERR the model does not know {arguments[0]}")
        return command(self, *arguments[1:])

    def expect(self, kind: str, key: str) -> None:
        """Raise WRONGTYPE when the key holds something else."""
        for name, held in (("h", self.hashes), ("z", self.zsets), ("s", self.streams)):
            if name != kind and key in held:
                raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind")


_COMMANDS: dict[str, Callable[..., Reply]] = {}


def _command(name: str) -> Callable[[Callable[..., Reply]], Callable[..., Reply]]:
    def register(function: Callable[..., Reply]) -> Callable[..., Reply]:
        _COMMANDS[name] = function
        return function

    return register


@_command("TIME")
def _time(store: Store) -> Reply:
    return [str(store.clock_ms // 1000), str(store.clock_ms % 1000 * 1000)]


@_command("HMGET")
def _hmget(store: Store, key: str, *names: str) -> Reply:
    store.expect("h", key)
    held = store.hashes.get(key, {})
    return [held.get(name) for name in names]


@_command("HGET")
def _hget(store: Store, key: str, name: str) -> Reply:
    store.expect("h", key)
    return store.hashes.get(key, {}).get(name)


@_command("HGETALL")
def _hgetall(store: Store, key: str) -> Reply:
    store.expect("h", key)
    return [text for pair in store.hashes.get(key, {}).items() for text in pair]


@_command("HLEN")
def _hlen(store: Store, key: str) -> Reply:
    store.expect("h", key)
    return len(store.hashes.get(key, {}))


@_command("HEXISTS")
def _hexists(store: Store, key: str, name: str) -> Reply:
    store.expect("h", key)
    return int(name in store.hashes.get(key, {}))


@_command("HSET")
def _hset(store: Store, key: str, *pairs: str) -> Reply:
    store.expect("h", key)
    held = store.hashes.setdefault(key, {})
    before = len(held)
    held.update(zip(pairs[::2], pairs[1::2], strict=True))
    return len(held) - before


@_command("HSETNX")
def _hsetnx(store: Store, key: str, name: str, value: str) -> Reply:
    return 0 if _hexists(store, key, name) else _hset(store, key, name, value)


@_command("HINCRBY")
def _hincrby(store: Store, key: str, name: str, by: str) -> Reply:
    value = int(_hget(store, key, name) or 0) + int(by)
    _hset(store, key, name, str(value))
    return value


@_command("HDEL")
def _hdel(store: Store, key: str, *names: str) -> Reply:
    store.expect("h", key)
    return _remove(store.hashes, key, names)


@_command("ZADD")
def _zadd(store: Store, key: str, *pairs: str) -> Reply:
    store.expect("z", key)
    held = store.zsets.setdefault(key, {})
    before = len(held)
    held.update((member, int(score)) for score, member in zip(pairs[::2], pairs[1::2], strict=True))
    return len(held) - before


@_command("ZREM")
def _zrem(store: Store, key: str, *members: str) -> Reply:
    store.expect("z", key)
    return _remove(store.zsets, key, members)


@_command("ZCARD")
def _zcard(store: Store, key: str) -> Reply:
    store.expect("z", key)
    return len(store.zsets.get(key, {}))


@_command("ZSCORE")
def _zscore(store: Store, key: str, member: str) -> Reply:
    store.expect("z", key)
    score = store.zsets.get(key, {}).get(member)
    return None if score is None else str(score)


@_command("ZCOUNT")
def _zcount(store: Store, key: str, low: str, high: str) -> Reply:
    return len(_between(store, key, low, high))


@_command("ZRANGEBYSCORE")
def _zrangebyscore(store: Store, key: str, low: str, high: str, *options: str) -> Reply:
    found = [member for member, _ in _between(store, key, low, high)]
    if not options:
        return found
    _, start, count = options
    return found[int(start) :][: int(count)]


@_command("ZRANGE")
def _zrange(store: Store, key: str, start: str, stop: str, *options: str) -> Reply:
    found = _between(store, key, "-inf", "+inf")
    end = int(stop) + 1 or len(found)
    part = found[int(start) : end]
    if options:
        return [text for member, score in part for text in (member, str(score))]
    return [member for member, _ in part]


@_command("XADD")
def _xadd(store: Store, key: str, at: str, *fields: str) -> Reply:
    store.expect("s", key)
    last, items = store.streams.get(key, ((0, 0), []))
    number = _id(at)
    if number <= last:
        raise ResponseError(
            "ERR The ID specified in XADD is equal or smaller than the target stream top item"
        )
    store.streams[key] = (number, [*items, (number, fields)])
    return at


@_command("XLEN")
def _xlen(store: Store, key: str) -> Reply:
    store.expect("s", key)
    return len(store.streams.get(key, ((0, 0), []))[1])


@_command("XREVRANGE")
def _xrevrange(store: Store, key: str, high: str, low: str, *options: str) -> Reply:
    return _entries(store, key, low, high, -1, options)


@_command("XRANGE")
def _xrange(store: Store, key: str, low: str, high: str, *options: str) -> Reply:
    return _entries(store, key, low, high, 1, options)


@_command("EXISTS")
def _exists(store: Store, *keys: str) -> Reply:
    return sum(key in store.hashes or key in store.zsets or key in store.streams for key in keys)


@_command("UNLINK")
def _unlink(store: Store, *keys: str) -> Reply:
    count = _exists(store, *set(keys))
    for held in (store.hashes, store.zsets, store.streams):
        for key in keys:
            held.pop(key, None)  # type: ignore[attr-defined]
    return count


@_command("RENAME")
def _rename(store: Store, key: str, to: str) -> Reply:
    if not _exists(store, key):
        raise ResponseError("ERR no such key")
    for held in (store.hashes, store.zsets, store.streams):
        value = held.pop(key, None)  # type: ignore[attr-defined]
        if value is not None:
            _unlink(store, to)
            held[to] = value
    return "OK"


@_command("FLUSHALL")
def _flushall(store: Store) -> Reply:
    store.hashes, store.zsets, store.streams = {}, {}, {}
    return "OK"


@_command("INFO")
def _info(store: Store, *_: str) -> Reply:
    replid = f"role:master\r\nmaster_replid:{store.replid:040x}\r\nmaster_replid2:{1:040x}\r\n"
    return f"# Server\r\nrun_id:{store.run_id:040x}\r\n# Replication\r\n{replid}"


def _remove(held: dict[str, dict[str, Any]], key: str, names: Sequence[str]) -> int:
    values = held.get(key, {})
    count = sum(values.pop(name, None) is not None for name in names)
    if key in held and not values:
        del held[key]
    return count


def _between(store: Store, key: str, low: str, high: str) -> list[tuple[str, int]]:
    store.expect("z", key)
    first, last = float(low), float(high)
    return sorted(
        ((m, s) for m, s in store.zsets.get(key, {}).items() if first <= s <= last),
        key=lambda pair: (pair[1], pair[0]),
    )


def _id(text: str) -> Id:
    first, _, second = text.partition("-")
    return int(first), int(second or 0)


def _entries(
    store: Store, key: str, low: str, high: str, step: int, options: Sequence[str]
) -> Reply:
    store.expect("s", key)
    items = store.streams.get(key, ((0, 0), []))[1]
    first = (0, 0) if low == "-" else _id(low.removeprefix("("))
    last = (2**64, 0) if high == "+" else _id(high)
    found = [
        [f"{at[0]}-{at[1]}", list(fields)]
        for at, fields in items
        if first <= at <= last and not (low.startswith("(") and at == first)
    ][::step]
    return found[: int(options[1])] if options else found
