"""Names all models that can be asked for, as far as routes and upstreams tell."""

from __future__ import annotations

import asyncio
import time

from taximeter.api.upstreams.router import Router

LISTED_FOR_S = 60.0


class Catalogue:
    """The names that upstreams list, remembered for a minute: callers may ask often."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._asking = asyncio.Lock()
        self._names: list[str] = []
        self._read_at = float("-inf")

    async def names(self) -> list[str]:
        """The models of routes, and those that upstreams list and a route takes. An upstream that
        does not answer has none.
        """
        async with self._asking:
            if time.monotonic() - self._read_at >= LISTED_FOR_S:
                lists = await asyncio.gather(
                    *(upstream.models() for upstream in self._router.upstreams.values()),
                    return_exceptions=True,
                )
                self._names = [
                    name
                    for names in lists
                    if not isinstance(names, BaseException)
                    for name in names
                ]
                self._read_at = time.monotonic()
        return sorted({*self._router.named_models(), *self._names})
