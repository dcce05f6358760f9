"""API keys of gateways: their text, and what a key allows as Postgres says it, remembered for
seconds.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import string
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeVar

import asyncpg

from taximeter.api.queries import KEYS
from taximeter.meter.sidecar.grants import ANY_HOLD, SIDECAR_OPERATIONS, Grant
from taximeter.settler.stores import Pool

logger = logging.getLogger("taximeter.api.keys")

OPERATIONS: Final = (*SIDECAR_OPERATIONS, ANY_HOLD, "llm")
PREFIX: Final = "tm_"
"""Says what it is to programs that look for secrets where none should be."""

ASK_AGAIN_S: Final = 1.0
"""A key in use is looked up anew this often, while it goes on to be accepted."""
BELIEVED_S: Final = 3.0
"""Longest life of what was read: a key that is revoked anywhere stops everywhere within it."""
BELIEVED_IN_OUTAGE_S: Final = 3600.0
"""The same by default while Postgres does not answer: a gateway must not stop with it."""
KEYS_REMEMBERED_MAX: Final = 10_000
ROOM: Final = 2
"""Look-ups at a time of keys that were good lately, and as many of keys that nobody knows here."""
UNKNOWN_WAITING_MAX: Final = 64
"""Most keys that wait for theirs; more are refused at once."""
KEY_CONNECTIONS: Final = 2 * ROOM + 1
"""Postgres connections that look-ups and the note of a last use take: each finds one free."""
LOOKUP_TIMEOUT_S: Final = 1.0
NOTE_USE_S: Final = 60.0

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE: Final = re.compile(rb"tm_([0-9A-Za-z]{12})_[0-9A-Za-z]{43}([0-9A-Za-z]{6})")
TROUBLE: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_T = TypeVar("_T")


class KeysBusy(TimeoutError):
    """Too many unknown keys are being looked up. It says nothing about Postgres."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `text` is shown once and kept nowhere."""

    key_id: str
    text: str
    digest: bytes

    def __repr__(self) -> str:
        return f"NewKey({self.key_id!r})"


def make_key() -> NewKey:
    """A key of 256 random bits: `tm_<id>_<secret><checksum>`."""
    key_id, secret = _random(12), _random(43)
    unchecked = f"{PREFIX}{key_id}_{secret}"
    text = unchecked + _checksum(unchecked.encode())
    return NewKey(key_id, text, sha256(text.encode()).digest())


def key_id_of(text: bytes) -> str | None:
    """The id in a key, or None when it cannot be one of ours: a typing error, or a made-up key."""
    match = _SHAPE.fullmatch(text)
    if match is None or match[2].decode() != _checksum(text[:-6]):
        return None
    return match[1].decode()


def opener_of(name: str) -> str:
    """Whose a hold is that a key of this name opens. Two keys of a name are one replacing the
    other: what one has opened, the other ends.
    """
    return sha256(name.encode()).hexdigest()[:24]


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(text: bytes) -> str:
    number, digits = zlib.crc32(text), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _ALPHABET[digit] + digits
    return digits


@dataclass(slots=True)
class _Read:
    """What Postgres said of a good key, when, and whether it has stopped to answer since."""

    grant: Grant
    expires_at: float
    read_at: float
    failed_at: float = float("-inf")  # When Postgres was asked for it last, in vain.


class KeyStore:
    """The keys in Postgres. What it says is remembered, by digest, for good keys and bad ones.

    A busy key is asked for again in the background each second, so no request waits for Postgres;
    an idle one is asked for when it comes. Bad keys have a memory of their own, and unknown ones a
    queue of their own: a flood of them pushes out no good one, and delays no look at one. Waiting
    is no outage: only what Postgres itself fails to answer is.

    `pool` should be nobody else's, and have KEY_CONNECTIONS.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        outage_s: float = BELIEVED_IN_OUTAGE_S,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._pool = pool
        self._outage_s = outage_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._good: OrderedDict[bytes, _Read] = OrderedDict()
        self._bad: OrderedDict[bytes, float] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Grant | None]] = {}
        self._noted: dict[str, float] = {}
        self._noting: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(ROOM)
        self._room_of_unknown = asyncio.Semaphore(ROOM)
        self._room_of_notes = asyncio.Semaphore(1)
        self._unknown_waiting = 0

    def known(self, key: bytes) -> Grant | None:
        """What the key allows, if that was read a moment ago, or before Postgres went away."""
        digest = sha256(key).digest()
        read = self._good.get(digest)
        if read is None or self._wall_clock() >= read.expires_at:
            return None
        now = self._clock()
        age_s = now - read.read_at
        # An outage is one as long as Postgres is asked in vain: a key that nobody has used since is
        # asked for first, since it may be over.
        is_outage = now - read.failed_at < BELIEVED_S
        if age_s >= (max(self._outage_s, BELIEVED_S) if is_outage else BELIEVED_S):
            return None
        if age_s >= ASK_AGAIN_S:
            self._ask(key, digest)
        return read.grant

    async def find(self, key: bytes) -> Grant | None:
        """What the key allows; None for one that is not good. Raises asyncpg errors or OSError when
        Postgres does not answer and did not vouch for the key lately, KeysBusy when too many
        unknown ones come.
        """
        if key_id_of(key) is None:
            return None
        digest = sha256(key).digest()
        found_bad_at = self._bad.get(digest)
        if found_bad_at is not None and self._clock() - found_bad_at < BELIEVED_S:
            return None
        try:
            return await asyncio.shield(self._ask(key, digest))
        except TROUBLE:
            grant = self.known(key)
            if grant is None:
                raise
            return grant

    async def aclose(self) -> None:
        """Give up what is being asked or noted; a last use may stay a minute old."""
        tasks = [*self._asking.values(), *self._noting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, key: bytes, digest: bytes) -> asyncio.Task[Grant | None]:
        """The one look-up of this key that runs."""
        asking = self._asking.get(digest)
        if asking is None:
            asking = asyncio.create_task(self._look_up(key, digest))
            self._asking[digest] = asking
            asking.add_done_callback(lambda task: self._asked(digest, task))
        return asking

    def _asked(self, digest: bytes, task: asyncio.Task[Grant | None]) -> None:
        del self._asking[digest]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("an API key could not be looked up: %r", error)

    async def _look_up(self, key: bytes, digest: bytes) -> Grant | None:
        key_id = key_id_of(key) or ""
        if digest in self._good:
            async with self._room:
                row, read_at = await self._ask_postgres(key_id, digest)
        else:
            if self._unknown_waiting >= UNKNOWN_WAITING_MAX:
                raise KeysBusy("too many unknown keys are being looked up")
            self._unknown_waiting += 1
            try:
                async with self._room_of_unknown:
                    row, read_at = await self._ask_postgres(key_id, digest)
            finally:
                self._unknown_waiting -= 1
        if row is None or not hmac.compare_digest(row["digest"], digest):
            self._good.pop(digest, None)
            _keep(self._bad, digest, read_at)
            return None
        grant = Grant(
            row["org_id"], row["user_id"], frozenset(row["operations"]), opener_of(row["name"])
        )
        _keep(self._good, digest, _Read(grant, row["expires_at"], read_at))
        if read_at - self._noted.get(key_id, float("-inf")) >= NOTE_USE_S:
            if len(self._noted) >= KEYS_REMEMBERED_MAX:
                self._noted.clear()
            self._noted[key_id] = read_at
            noting = asyncio.create_task(self._note_use(key_id))
            self._noting.add(noting)
            noting.add_done_callback(self._noting.discard)
        return grant

    async def _ask_postgres(self, key_id: str, digest: bytes) -> tuple[Any, float]:
        """The row, and from when it is. What fails here is Postgres and nothing else: one time-out
        may also be a moment in which this process was busy, so it is asked once more.
        """
        for is_last in (False, True):
            read_at = self._clock()
            try:
                async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                    return await self._pool.fetchrow(KEYS["find_key"], key_id), read_at
            except TROUBLE as error:
                if isinstance(error, TimeoutError) and not is_last:
                    continue
                if (read := self._good.get(digest)) is not None:
                    read.failed_at = self._clock()
                raise
        raise AssertionError("the last time returns or raises")

    async def _note_use(self, key_id: str) -> None:
        """Nobody waits for this: the next minute notes it again."""
        try:
            async with self._room_of_notes:
                await self._pool.execute(KEYS["note_use"], key_id)
        except TROUBLE as error:
            logger.warning("the last use of an API key could not be noted: %r", error)


def _keep(memory: OrderedDict[bytes, _T], digest: bytes, value: _T) -> None:
    memory[digest] = value
    memory.move_to_end(digest)
    if len(memory) > KEYS_REMEMBERED_MAX:
        memory.popitem(last=False)
