"""Wakes a loop at exact moments: uvloop's own timers are off by up to a millisecond, which is more
than most of what is timed here.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from typing import Final, Self

_MONOTONIC: Final = 1
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
"""TFD_NONBLOCK and TFD_CLOEXEC have the same values."""
_COUNT_BYTES: Final = 8


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Time), ("first", _Time))


class Ticks:
    """A timer of the kernel (timerfd) that a running loop waits for, every `period_s`."""

    def __init__(self, period_s: float) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._period = _Time(int(period_s), round(period_s % 1 * 1e9))
        self._descriptor = -1
        self._waiter: asyncio.Future[None] | None = None
        self.began = 0.0
        """The moment from which the ticks count, by time.perf_counter."""

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._descriptor = self._libc.timerfd_create(_MONOTONIC, _FLAGS)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        timer = _Timer(self._period, self._period)
        self.began = time.perf_counter()
        if self._libc.timerfd_settime(self._descriptor, 0, ctypes.byref(timer), None) < 0:
            os.close(self._descriptor)
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        self._loop.add_reader(self._descriptor, self._ticked)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    async def wait(self) -> None:
        """Until the next tick."""
        self._waiter = self._loop.create_future()
        await self._waiter

    def _ticked(self) -> None:
        os.read(self._descriptor, _COUNT_BYTES)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
