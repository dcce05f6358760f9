"""Runs a server until a signal comes, as operators expect it: stopped as told is success."""

from __future__ import annotations

import signal
from types import FrameType

import uvicorn


def serve_until_told(server: uvicorn.Server) -> bool:
    """Serve, and return whether it could start, or was told to stop before; after SIGINT or
    SIGTERM, once what runs is finished.

    uvicorn raises the signal that has stopped it once more when it is done, for whoever listened
    before it. That would be Python itself: a traceback, "Aborted!" or exit code 143.
    """

    told = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        server.run()
    except SystemExit:  # How uvicorn says that it could not start, with an exit code of its own.
        return False
    return server.started or told
