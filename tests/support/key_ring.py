"""Keys for a sidecar whose keeper is not what is tested."""

from __future__ import annotations

from taximeter.meter.sidecar.grants import UNLIMITED, Grant


class Ring:
    """Keys whose text says what they may do: `reserve+commit@name`, `...@name/user`."""

    def known(self, header: bytes) -> Grant | None:
        text = header.decode().removeprefix("Bearer ")
        if text == "everything":
            return UNLIMITED
        operations, _, name = text.partition("@")
        name, _, user = name.partition("/")
        return Grant("acme", user or None, frozenset(operations.split("+")), name)

    async def find(self, header: bytes) -> Grant | None:
        return self.known(header)
