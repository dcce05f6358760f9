"""Runs a server until a signal comes, as operators expect it: stopped as told is success."""

from __future__ import annotations

import signal
from types import FrameType

import uvicorn


def serve_until_told(server: uvicorn.Server) -> bool:
    """Serve, and return whether it could start; after SIGINT or SIGTERM, once what runs is
    finished.

    uvicorn raises the signal that has stopped it once more when it is done, for whoever listened
    before it. That would be Python itself: a traceback, "Aborted!" or exit code 143.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    server.run()
    return server.started or server.should_exit
