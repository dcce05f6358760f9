"""Looks up API keys of gateways in Postgres, and remembers for seconds what a key allows."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeVar

import asyncpg

from taximeter.api.access.key_text import KeyText, has_shape, read_key
from taximeter.api.sql import KEYS
from taximeter.api.web.background import TaskTracker
from taximeter.meter.sidecar.grants import Grant
from taximeter.meter.wire.bounded_cache import BoundedCache
from taximeter.settler.books.stores import Pool, is_away

logger = logging.getLogger("taximeter.api.access.api_keys")

ASK_AGAIN_S: Final = 1.0
"""A key in use is looked up anew this often, while it goes on to be accepted."""
BELIEVED_S: Final = 3.0
"""Longest life of what was read: a key that is revoked anywhere stops everywhere within it."""
BELIEVED_IN_OUTAGE_S: Final = 3600.0
"""The same by default while Postgres is away: a gateway must not stop with it."""
KEYS_REMEMBERED_MAX: Final = 10_000
KEYS_A_LOOK_MAX: Final = 1000
"""Most keys that one query asks for."""
ROOM_OF_UNKNOWN: Final = 2
"""Look-ups at a time of keys that anybody can have made up."""
UNKNOWN_WAITING_MAX: Final = 64
"""Most keys that wait for theirs; more are refused at once."""
KEY_CONNECTIONS: Final = ROOM_OF_UNKNOWN + 5
"""Postgres connections: one each for keys of ours, for whether there are older ones, for the
note of a last use and to be told of ended keys, and one for a query that was given up and is not
back yet.
"""
LOOKUP_TIMEOUT_S: Final = 1.0
_TURNS: Final = 10
NOTE_USE_S: Final = 60.0
CHANNEL: Final = "taximeter_keys"
"""On which Postgres tells the organisation of keys that have ended."""
LISTEN_AGAIN_S: Final = 1.0

TROUBLE: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_SLOW: Final = (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError)
_T = TypeVar("_T")


class KeysBusy(TimeoutError):
    """Too many unknown keys are being looked up. It says nothing about Postgres."""


def opener_of(name: str) -> str:
    """Whose a hold is that a key of this name opens. Two keys of a name are one replacing the
    other: what one has opened, the other ends.
    """
    return sha256(name.encode()).hexdigest()[:24]


@dataclass(slots=True)
class _Read:
    """What Postgres said of a good key, when, and whether it has gone away since."""

    key_id: str
    grant: Grant
    expires_at: float
    read_at: float
    failed_at: float = float("-inf")  # When Postgres was asked for it last, and was away.


class KeyStore:
    """The keys in Postgres. What it says is remembered, by digest, for good keys and bad ones.

    Busy keys are asked for again in the background each second, all of them by one query, so no
    request waits for Postgres; an idle one is asked for when it comes. `listen` hears of keys that
    end, and asks at once. Keys whose check digits are not ours are refused without a look, and
    those of before there were seals, which anybody can make up, have a queue of their own: a flood
    of them delays no look at a key that we have made. Waiting is no outage, and neither is a slow
    answer: only a Postgres that cannot be reached is one.

    With `has_cells`, keys that came from other cells are good too.

    `pool` should be nobody else's, and have KEY_CONNECTIONS.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        outage_s: float = BELIEVED_IN_OUTAGE_S,
        has_cells: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.pool = pool
        self._outage_s = outage_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._has_cells = has_cells
        self._taken: tuple[float, tuple[bytes, ...]] = (float("-inf"), ())
        self._reading_taken: asyncio.Task[None] | None = None
        self._seal: bytes | None = None
        self._reading_seal: asyncio.Task[bytes] | None = None
        self._old_keys: tuple[float, bool] = (float("-inf"), False)
        self._good: BoundedCache[bytes, _Read] = BoundedCache(KEYS_REMEMBERED_MAX)
        self._bad: BoundedCache[bytes, float] = BoundedCache(KEYS_REMEMBERED_MAX)
        self._asking: dict[bytes, asyncio.Future[Grant | None]] = {}
        self._due: list[tuple[str, bytes]] = []
        self._noted: dict[str, float] = {}
        self._tasks = TaskTracker()
        self._asks_due = False
        self._room_of_unknown = asyncio.Semaphore(ROOM_OF_UNKNOWN)
        self._room_of_old = asyncio.Semaphore(1)
        self._room_of_notes = asyncio.Semaphore(1)
        self._unknown_waiting = 0
        self.listening = asyncio.Event()
        """Set while ended keys are told to this process; without it they are found by asking."""

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
            self._ask(read.key_id, digest)
        return read.grant

    async def find(self, key: bytes) -> Grant | None:
        """What the key allows; None for one that is not good. Raises asyncpg errors or OSError when
        Postgres does not answer and did not vouch for the key lately, KeysBusy when too many
        unknown ones come.
        """
        if not has_shape(key):
            return None
        digest = sha256(key).digest()
        found_bad_at = self._bad.get(digest)
        if found_bad_at is not None and self._clock() - found_bad_at < BELIEVED_S:
            return None
        try:
            text = read_key(key, await self.seal())
            if text is None and self._has_cells:
                text = await self._of_another_cell(key)
            if text is None:
                return None
            if not text.is_sealed and digest not in self._good:
                if not await self._has_old_keys():
                    return None
                return await asyncio.shield(self._ask_for_unknown(text.key_id, digest))
            return await asyncio.shield(self._ask(text.key_id, digest))
        except TROUBLE:
            grant = self.known(key)
            if grant is None:
                raise
            return grant

    async def _of_another_cell(self, key: bytes) -> KeyText | None:
        """The key, if it came here with its organisation. Whose seals were taken is asked again at
        most once in BELIEVED_S, however many keys are made up. Raises asyncpg errors, OSError.
        """
        text = self._by_taken(key)
        if text is None and self._clock() - self._taken[0] >= BELIEVED_S:
            if self._reading_taken is None:
                self._reading_taken = self._tasks.spawn(self._read_taken())
            await asyncio.shield(self._reading_taken)
            text = self._by_taken(key)
        return text

    def _by_taken(self, key: bytes) -> KeyText | None:
        found = (read_key(key, seal) for seal in self._taken[1])
        return next((text for text in found if text is not None), None)

    async def _read_taken(self) -> None:
        read_at = self._clock()
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                rows = await self.pool.fetch(KEYS["read_seals_taken"])
        finally:
            self._reading_taken = None
        self._taken = (read_at, tuple(row["secret"] for row in rows))

    async def seal(self) -> bytes:
        """What check digits are made with; read once. Raises asyncpg errors, OSError."""
        if self._seal is not None:
            return self._seal
        if self._reading_seal is None:
            self._reading_seal = self._tasks.spawn(self._read_seal())
        return await asyncio.shield(self._reading_seal)

    def listen(self) -> None:
        """Hear of keys that end, until `aclose`, and ask for those of their organisations when they
        come next. While Postgres cannot tell, asking each second finds the same.
        """
        self._tasks.spawn(self._listen())

    async def aclose(self) -> None:
        """Give up what is being asked or noted; a last use may stay a minute old."""
        await self._tasks.cancel()

    async def _listen(self) -> None:
        said = False
        while True:
            try:
                async with self.pool.acquire() as conn:
                    lost = asyncio.Event()
                    conn.add_termination_listener(lambda *_, lost=lost: lost.set())
                    try:
                        await conn.add_listener(CHANNEL, self._told)
                        self.listening.set()
                        said = False
                        await lost.wait()
                    finally:
                        self.listening.clear()
                        conn.terminate()  # It is for nobody else; and nobody waits for a goodbye.
            except TROUBLE as error:
                if not said:
                    logger.warning("ended API keys are asked for and not told: %r", error)
                said = True
            await asyncio.sleep(LISTEN_AGAIN_S)

    def _told(self, _conn: object, _pid: int, _channel: str, org_id: object) -> None:
        """Keys of this organisation have ended: what was read of any of them counts no more."""
        for read in self._good.values():
            if read.grant.org_id == org_id:
                read.read_at = read.failed_at = float("-inf")

    def _ask(self, key_id: str, digest: bytes) -> asyncio.Future[Grant | None]:
        """The one look-up of this key that runs, with all others that are due."""
        asking = self._asking.get(digest)
        if asking is None:
            asking = asyncio.get_running_loop().create_future()
            self._follow(digest, asking)
            self._due.append((key_id, digest))
            if not self._asks_due:
                self._asks_due = True
                self._tasks.spawn(self._ask_for_due())
        return asking

    def _ask_for_unknown(self, key_id: str, digest: bytes) -> asyncio.Future[Grant | None]:
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._tasks.spawn(self._look_up_unknown(key_id, digest))
            self._follow(digest, asking)
        return asking

    def _follow(self, digest: bytes, asking: asyncio.Future[Grant | None]) -> None:
        self._asking[digest] = asking

        def ended(asking: asyncio.Future[Grant | None]) -> None:
            del self._asking[digest]
            if not asking.cancelled():
                asking.exception()  # Nobody may wait for it any more.

        asking.add_done_callback(ended)

    async def _ask_for_due(self) -> None:
        """Ask for every key that is due, one query after the other, until none is."""
        asked: list[tuple[str, bytes]] = []
        try:
            while self._due:
                asked, self._due = self._due[:KEYS_A_LOOK_MAX], self._due[KEYS_A_LOOK_MAX:]
                read_at = self._clock()
                try:
                    rows = await self._rows_of(asked)
                except Exception as error:
                    logger.warning("%s API keys could not be looked up: %r", len(asked), error)
                    for _, digest in asked:
                        self._asking[digest].set_exception(error)
                    continue
                for key_id, digest in asked:
                    grant = self._take(key_id, digest, rows.get(key_id), read_at)
                    self._asking[digest].set_result(grant)
        finally:
            self._asks_due = False
            for _, digest in (*asked, *self._due):  # What a cancellation has left.
                if (left := self._asking.get(digest)) is not None:
                    left.cancel()
            self._due.clear()

    async def _rows_of(self, asked: list[tuple[str, bytes]]) -> dict[str, Any]:
        """The rows of the keys that are good. Notes an outage, if what fails is one."""
        query = self.pool.fetch(KEYS["find_keys"], [key_id for key_id, _ in asked])
        try:
            rows = await self._in_turns(query)
        except TROUBLE as error:
            if await self._is_outage(error):
                for _, digest in asked:
                    if (read := self._good.get(digest)) is not None:
                        read.failed_at = self._clock()
            raise
        return {row["key_id"]: row for row in rows}

    async def _is_outage(self, error: BaseException) -> bool:
        """Whether Postgres is away. One that took too long may be held up by somebody's lock, and
        answers something else then.
        """
        if not isinstance(error, (TimeoutError, *_SLOW)):
            return is_away(error)
        try:
            await self._in_turns(self.pool.fetchval("SELECT 1"))
        except TROUBLE:
            return True
        return False

    async def _in_turns(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What `work` returns within LOOKUP_TIMEOUT_S. Raises TimeoutError, which says that no
        answer came: in a process that is too busy to look, none of the turns is over.
        """
        task = self._tasks.spawn(work)
        for _ in range(_TURNS):
            done, _pending = await asyncio.wait((task,), timeout=LOOKUP_TIMEOUT_S / _TURNS)
            if done:
                return task.result()
        task.cancel()
        raise TimeoutError("no answer from Postgres in time")

    async def _look_up_unknown(self, key_id: str, digest: bytes) -> Grant | None:
        if self._unknown_waiting >= UNKNOWN_WAITING_MAX:
            raise KeysBusy("too many unknown keys are being looked up")
        self._unknown_waiting += 1
        try:
            async with self._room_of_unknown, asyncio.timeout(LOOKUP_TIMEOUT_S):
                read_at = self._clock()
                row = await self.pool.fetchrow(KEYS["find_keys"], [key_id])
        finally:
            self._unknown_waiting -= 1
        return self._take(key_id, digest, row, read_at)

    async def _read_seal(self) -> bytes:
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                seal: bytes | None = await self.pool.fetchval(KEYS["read_seal"])
        finally:
            self._reading_seal = None
        assert seal is not None, "a migration has made it"
        self._seal = seal
        return seal

    async def _has_old_keys(self) -> bool:
        read_at, found = self._old_keys
        if self._clock() - read_at >= BELIEVED_S:
            async with self._room_of_old, asyncio.timeout(LOOKUP_TIMEOUT_S):
                read_at, found = self._old_keys
                now = self._clock()
                if now - read_at >= BELIEVED_S:
                    found = await self.pool.fetchval(KEYS["has_old_keys"])
                    self._old_keys = (now, found)
        return found

    def _take(self, key_id: str, digest: bytes, row: Any, read_at: float) -> Grant | None:
        """Remember what Postgres said of a key, and return what it allows."""
        if row is None or not hmac.compare_digest(row["digest"], digest):
            self._good.pop(digest, None)
            self._bad.keep(digest, read_at)
            return None
        grant = Grant(
            row["org_id"],
            row["user_id"],
            frozenset(row["operations"]),
            opener_of(row["name"]),
            key_id,
        )
        self._good.keep(digest, _Read(key_id, grant, row["expires_at"], read_at))
        if read_at - self._noted.get(key_id, float("-inf")) >= NOTE_USE_S:
            if len(self._noted) >= KEYS_REMEMBERED_MAX:
                self._noted.clear()
            self._noted[key_id] = read_at
            self._tasks.spawn(self._note_use(key_id))
        return grant

    async def _note_use(self, key_id: str) -> None:
        """Nobody waits for this: the next minute notes it again."""
        try:
            async with self._room_of_notes:
                await self.pool.execute(KEYS["note_use"], key_id)
        except TROUBLE as error:
            logger.warning("the last use of an API key could not be noted: %r", error)
