"""Connections to a node that a slot is on its way to: it answers for it behind ASKING alone."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

_ASKING: Final = b"*1\r\n$6\r\nASKING\r\n"
_OK: Final = (b"OK", "OK")


class _Asking:
    """Sends one ASKING before each call, and reads its answer away. A call is what is sent in one
    piece: a command, or a transaction.
    """

    _asks = False
    _unanswered = 0

    async def connect(self) -> None:
        # A node that takes a password wants it first.
        self._asks, self._unanswered = False, 0
        await super().connect()  # type: ignore[misc]
        self._asks = True

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._asks:
            self._unanswered += 1
            command = [_ASKING, *([command] if isinstance(command, bytes) else command)]
        await super().send_packed_command(command, check_health)  # type: ignore[misc]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        reply = await super().read_response(*args, **options)  # type: ignore[misc]
        if self._unanswered and reply in _OK:
            self._unanswered -= 1
            reply = await super().read_response(*args, **options)  # type: ignore[misc]
        return reply


@cache
def asking(connection_class: type) -> type:
    """The same kind of connection, which asks."""
    return type(f"Asking{connection_class.__name__}", (_Asking, connection_class), {})
