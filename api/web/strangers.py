"""Counts how many requests that nobody vouches for an address makes, and how many that make no
sense a caller does, before anything of the next is parsed, looked up or verified.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from taximeter.meter.wire.bounded_cache import BoundedCache

PEERS_MAX: Final = 10_000
"""Most addresses that are counted; the one that was silent for longest is forgotten."""
KNOWN_MAX: Final = 10_000
KNOWN_FOR_S: Final = 60.0
"""How long credentials that were accepted are let in whatever else their address sends."""
BYTES_A_UNIT: Final = 2_048
"""A body that was refused counts as one more request for each so many bytes."""
BODY_UNITS_MAX: Final = 300
"""As what a body of no announced length counts, and the largest."""
OWED_MAX_S: Final = 30.0
"""Longest time in which what somebody owes is over: a flood is forgotten soon after its end."""
SENSELESS: Final = frozenset({400, 405, 408, 413, 415, 422})
"""Answers to what no program that works would send one after the other."""
NOTED_AS: Final = "taximeter.noted_as"
"""In the scope of a request: as what status it is noted here, whatever its answer says."""
NOTHING: Final = 404
"""Of a page that is anybody's: nobody's credentials are good because they could read it."""
_GATE: Final = "/auth/"
_KEYS: Final = (b"authorization", b"cookie")
_GATE_KEYS: Final = (b"x-taximeter-key",)


class Strangers:
    """A bucket of `per_minute` requests for each address, which fills by as many in a minute. Each
    request that ends as 401 costs one, and while there is none, only callers are let in whose
    credentials were accepted within the last minute. So callers who are known are never refused,
    also behind a proxy through which others flood, and what is refused costs neither a look-up nor
    a signature.

    Requests that make no sense (SENSELESS) cost one, and more by the length of their bodies: of
    the credentials, or of the address of who has none. Who has none left is still let in; `owes_s`
    says so.

    Credentials are remembered by a number that is good in this process alone.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = per_minute
        self._clock = clock
        self._left: BoundedCache[str | int, tuple[float, float]] = BoundedCache(PEERS_MAX)
        self._known: BoundedCache[int, float] = BoundedCache(KNOWN_MAX)

    def wait_s(self, peer: str, credentials: int | None) -> float:
        """Seconds until a request may be let in; 0 for one that may be now."""
        if peer not in self._left or self._is_known(credentials):
            return 0.0
        return self._owed_s(peer)

    def owes_s(self, peer: str, credentials: int | None) -> float:
        """Seconds until a caller has paid for requests that made no sense; 0 for most."""
        who = self.who(peer, credentials)
        return self._owed_s(who) if who in self._left else 0.0

    def suspects(self, peer: str, credentials: int | None) -> bool:
        """Whether a caller is unknown, and a twentieth of their address's bucket is used up."""
        return (
            peer in self._left
            and not self._is_known(credentials)
            and self._fill(peer) < self._most * 0.95
        )

    def who(self, peer: str, credentials: int | None) -> str | int:
        """Who a request that makes no sense counts for: an address only if it says nothing else."""
        return f"{peer} alone" if credentials is None else credentials

    def note(self, peer: str, credentials: int | None, status: int, body_bytes: int = 0) -> None:
        """How a request that was let in was answered, and how long its body was announced to be:
        below zero when it was not said.
        """
        if not self._most or not peer:
            return
        if status == 401:
            if credentials is not None:
                self._known.pop(credentials, None)
            self._take(peer, 1)
        elif status in SENSELESS:
            units = BODY_UNITS_MAX if body_bytes < 0 else body_bytes // BYTES_A_UNIT
            self._take(self.who(peer, credentials), 1 + min(units, BODY_UNITS_MAX))
        elif credentials is not None and (status < 400 or status in (402, 409)):
            self._known.keep(credentials, self._clock() + KNOWN_FOR_S)

    def _take(self, who: str | int, units: int) -> None:
        left = max(self._fill(who) - units, -self._most * OWED_MAX_S / 60)
        self._left.keep(who, (left, self._clock()))

    def _is_known(self, credentials: int | None) -> bool:
        return credentials is not None and self._known.get(credentials, 0.0) > self._clock()

    def _owed_s(self, who: str | int) -> float:
        left = self._fill(who)
        return 0.0 if left >= 1 else (1 - left) * 60 / self._most

    def _fill(self, who: str | int) -> float:
        left, at = self._left.get(who, (float(self._most), 0.0))
        return min(self._most, left + (self._clock() - at) * self._most / 60)


def credentials_of(
    path: str, headers: Iterable[tuple[bytes, bytes]], also: bytes | None = None
) -> int | None:
    """A number for what a request says who it is of; None when it says nothing. What a gateway
    passes on to forward auth is its caller's, and has no part in it. `also` names a header by which
    one key stands for several callers.
    """
    names = _GATE_KEYS if path.startswith(_GATE) else _KEYS
    given = [value for name, value in headers if name in names]
    if not given:
        return None
    return hash((*given, *(value for name, value in headers if name == also)))


def body_bytes_of(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The length of a body as its sender announces it; -1 for one of no announced length."""
    for name, value in headers:
        if name == b"content-length":
            return int(value[:18]) if value.isdigit() else 0
        if name == b"transfer-encoding":
            return -1
    return 0
