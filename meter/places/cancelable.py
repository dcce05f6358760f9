"""Keeps a cancel that comes while redis-py writes.

redis-py writes inside `asyncio.wait_for`, which before Python 3.12 returns what has just ended and
drops a cancel that comes at that moment. A loop that was told to end went on then, and whoever
waited for its end waited for ever.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

from redis.asyncio.connection import AbstractConnection


class _Cancelable(AbstractConnection):
    """A connection of redis-py whose writes end with CancelledError when they are cancelled."""

    async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
        task = asyncio.current_task()
        asked = 0 if task is None else task.cancelling()
        await super().send_packed_command(*arguments, **options)
        if task is not None and task.cancelling() > asked:
            # Its reply would be taken for the reply to something else.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError


@cache
def cancelable(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """That class of redis-py, with writes that can be cancelled."""
    return type(f"Cancelable{connection_class.__name__}", (_Cancelable, connection_class), {})
