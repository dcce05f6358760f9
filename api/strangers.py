"""How many requests that nobody vouches for an address may make: counted before anything of them is
parsed, looked up or verified.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

PEERS_MAX: Final = 10_000
"""Most addresses that are counted; the one that was silent for longest is forgotten."""
KNOWN_MAX: Final = 10_000
KNOWN_FOR_S: Final = 60.0
"""How long credentials that were accepted are let in whatever else their address sends."""
_GATE: Final = "/auth/"
_KEYS: Final = (b"authorization", b"cookie")
_GATE_KEYS: Final = (b"x-taximeter-key",)


class Strangers:
    """A bucket of `per_minute` requests for each address, which fills by as many in a minute. Each
    request that ends as 401 costs one, and while there is none, only callers are let in whose
    credentials were accepted within the last minute. So callers who are known are never refused,
    also behind a proxy through which others flood, and what is refused costs neither a look-up nor
    a signature.

    Credentials are remembered by a number that is good in this process alone.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = per_minute
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._known: OrderedDict[int, float] = OrderedDict()

    def wait_s(self, peer: str, credentials: int | None) -> float:
        """Seconds until a request may be let in; 0 for one that may be now."""
        if peer not in self._left or self._is_known(credentials):
            return 0.0
        left = self._fill(peer)
        return 0.0 if left >= 1 else (1 - left) * 60 / self._most

    def note(self, peer: str, credentials: int | None, status: int) -> None:
        """How a request that was let in was answered."""
        if not self._most or not peer:
            return
        if status == 401:
            if credentials is not None:
                self._known.pop(credentials, None)
            self._left[peer] = self._fill(peer) - 1, self._clock()
            self._left.move_to_end(peer)
            if len(self._left) > PEERS_MAX:
                self._left.popitem(last=False)
        elif credentials is not None and (status < 400 or status in (402, 409)):
            self._known[credentials] = self._clock() + KNOWN_FOR_S
            self._known.move_to_end(credentials)
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)

    def _is_known(self, credentials: int | None) -> bool:
        return credentials is not None and self._known.get(credentials, 0.0) > self._clock()

    def _fill(self, peer: str) -> float:
        left, at = self._left.get(peer, (float(self._most), 0.0))
        return min(self._most, left + (self._clock() - at) * self._most / 60)


def credentials_of(path: str, headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """A number for what a request says who it is of; None when it says nothing. What a gateway
    passes on to forward auth is its caller's, and has no part in it.
    """
    names = _GATE_KEYS if path.startswith(_GATE) else _KEYS
    given = [value for name, value in headers if name in names]
    return hash(tuple(given)) if given else None
