"""A crowd on many connections, in a process of its own: `python -m support.flood`.

Reads one line of JSON: the port, how many connections, the requests of each, and what it drips.
Without requests a connection only drips, or is silent. With some, each connection sends one after
the other and reads each answer first; a connection that ends is opened again. One thread without a
framework, so that what the crowd itself costs is little beside what it costs whom it attacks.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Final

DRIP_S: Final = 1.0
PAUSE_S: Final = 0.05
"""Before a connection that ended is opened again."""


class Connection:
    """One of the crowd."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd = crowd
        self._next = number
        self._raw: socket.socket | None = None
        self._out = memoryview(b"")
        self._in = b""
        self._missing = -1
        self._again_at = 0.0

    def tick(self, now: float) -> None:
        if self._raw is None:
            if now >= self._again_at:
                self._open()
        elif self._crowd.drip:
            self._drip()

    def _open(self) -> None:
        self._raw = socket.socket()
        self._raw.setblocking(False)
        with suppress(BlockingIOError):
            self._raw.connect(("127.0.0.1", self._crowd.port))
        self._crowd.selector.register(self._raw, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
        self._crowd.counts["connections"] += 1
        self._ask()

    def _ask(self) -> None:
        requests = self._crowd.requests
        self._out = memoryview(requests[self._next % len(requests)] if requests else b"")
        self._next += 1
        self._in, self._missing = b"", -1

    def ready(self, events: int) -> None:
        assert self._raw is not None
        try:
            if events & selectors.EVENT_READ:
                self._read(self._raw.recv(65536))
            if self._raw is not None and events & selectors.EVENT_WRITE:
                self._write()
        except BlockingIOError:
            pass
        except OSError:
            self._close()

    def _write(self) -> None:
        assert self._raw is not None
        if self._out:
            self._out = self._out[self._raw.send(self._out) :]
        if not self._out:
            self._crowd.selector.modify(self._raw, selectors.EVENT_READ, self)

    def _read(self, part: bytes) -> None:
        if not part:
            self._close()
            return
        if not self._crowd.requests:
            return
        if self._missing < 0:
            self._in += part
            head, end, rest = self._in.partition(b"\r\n\r\n")
            if not end:
                return
            lines = head.lower().split(b"\r\n")
            self._crowd.counts[lines[0].split()[1].decode()] += 1
            self._missing = next(
                (int(one[15:]) for one in lines if one.startswith(b"content-length:")), 0
            )
            part = rest
        self._missing -= len(part)
        if self._missing <= 0:
            if self._out:  # The rest of a body that nobody reads.
                self._close()
                return
            self._ask()
            assert self._raw is not None
            self._crowd.selector.modify(
                self._raw, selectors.EVENT_READ | selectors.EVENT_WRITE, self
            )

    def _drip(self) -> None:
        with suppress(OSError):
            assert self._raw is not None
            self._raw.send(self._crowd.drip)

    def _close(self) -> None:
        assert self._raw is not None
        with suppress(KeyError):
            self._crowd.selector.unregister(self._raw)
        self._raw.close()
        self._raw = None
        self._again_at = time.monotonic() + PAUSE_S


class Crowd:
    """All of them, until the input ends; then a line says what they were answered."""

    def __init__(self, port: int, connections: int, requests: list[str], drip: str) -> None:
        self.port = port
        self.requests = [one.encode("latin-1") for one in requests]
        self.drip = drip.encode("latin-1")
        self.selector = selectors.DefaultSelector()
        self.counts: Counter[str] = Counter()
        self._all = [Connection(self, number) for number in range(connections)]

    def run(self) -> None:
        self.selector.register(sys.stdin, selectors.EVENT_READ, None)
        tick_at, told = 0.0, False
        while True:
            now = time.monotonic()
            if now >= tick_at:
                for one in self._all:
                    one.tick(now)
                tick_at = now + (DRIP_S if self.drip else PAUSE_S)
                if not told:
                    print("there", flush=True)
                    told = True
            for key, events in self.selector.select(PAUSE_S):
                if key.data is None:
                    print(json.dumps({**self.counts, "cpu_s": time.process_time()}), flush=True)
                    return
                key.data.ready(events)


if __name__ == "__main__":
    Crowd(**json.loads(sys.stdin.readline())).run()
