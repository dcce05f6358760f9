"""Checks the keys that a sidecar accepts: those of its settings, and those of organisations."""

from __future__ import annotations

from taximeter.api.access.api_keys import TROUBLE, KeyStore
from taximeter.api.access.key_text import PREFIX
from taximeter.meter.sidecar import ApiKeys
from taximeter.meter.sidecar.answers import KEYS_UNAVAILABLE
from taximeter.meter.sidecar.bearer import bearer
from taximeter.meter.sidecar.grants import Grant

_PREFIX = PREFIX.encode()


class Keys:
    """A key of the settings first, then one in Postgres; either part may be missing."""

    def __init__(self, own: ApiKeys | None, store: KeyStore | None) -> None:
        self._own = own
        self._store = store

    def known(self, header: bytes) -> Grant | None:
        """What this header allows, without a wait."""
        if self._store is not None:
            key = bearer(header)
            if key is not None and key.startswith(_PREFIX):
                grant = self._store.known(key)
                if grant is not None:
                    return grant
        return None if self._own is None else self._own.known(header)

    async def find(self, header: bytes) -> Grant | None:
        """The same, asking Postgres. Raises Refusal (503) when that does not answer."""
        key = bearer(header)
        if self._store is None or key is None or not key.startswith(_PREFIX):
            return None
        try:
            return await self._store.find(key)
        except TROUBLE as error:
            raise KEYS_UNAVAILABLE from error
