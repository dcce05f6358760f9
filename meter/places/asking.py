"""Connects to a node that a slot is on its way to: it answers for it behind ASKING alone."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

_ASKING: Final = b"*1\r\n$6\r\nASKING\r\n"
_OK: Final = (b"OK", "OK")


class _Asking:
    """Sends one ASKING before each call, and reads its answer away. A call is what is sent in one
    piece, a command or a transaction, and has all its replies read before the next is sent.
    """

    _asks = False
    _is_told = True
    """Whether the next reply is one to the call, and not to the ASKING before it."""
    _refusal: ResponseError | None = None

    async def connect(self) -> None:
        # A node that takes a password wants it first.
        self._asks, self._is_told, self._refusal = False, True, None
        await super().connect()  # type: ignore[misc]
        self._asks = True

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._asks:
            if check_health:
                await self.check_health()  # type: ignore[attr-defined]
            check_health, self._is_told, self._refusal = False, False, None
            command = [_ASKING, *([command] if isinstance(command, bytes) else command)]
        await super().send_packed_command(command, check_health)  # type: ignore[misc]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        read: Any = super().read_response  # type: ignore[misc]
        if not self._is_told:
            self._is_told = True
            try:
                said = await read(*args, **options)
            except ResponseError as error:
                # It stands for every answer to the call: those are from a node that was not asked.
                self._refusal = error
            else:
                if said not in _OK:
                    await self.disconnect(nowait=True)  # type: ignore[attr-defined]
                    raise RedisConnectionError(f"ASKING was answered {said!r:.80}")
        if self._refusal is None:
            return await read(*args, **options)
        with suppress(ResponseError):
            await read(*args, **options)
        raise self._refusal


@cache
def asking(connection_class: type) -> type:
    """The same kind of connection, which asks."""
    return type(f"Asking{connection_class.__name__}", (_Asking, connection_class), {})
