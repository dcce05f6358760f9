"""A scrape asks the kernel beside the event loop: counting ten thousand open files takes
milliseconds, in which no request would be answered.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import ClassVar

import pytest
from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from support.waiting import eventually

from taximeter.settler.status import metrics
from taximeter.settler.status.metrics import Exposition


class Slow(ProcessCollector):
    """Takes until it is told to go on, and counts how often it was asked."""

    goes_on = threading.Event()
    asked: ClassVar[list[str]] = []

    def collect(self) -> Iterable[Metric]:
        self.asked.append(threading.current_thread().name)
        assert self.goes_on.wait(30), "nobody went on meanwhile: it runs on the event loop"
        return super().collect()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> type[Slow]:
    monkeypatch.setattr(metrics, "ProcessCollector", Slow)
    monkeypatch.setattr(Slow, "goes_on", threading.Event())
    monkeypatch.setattr(Slow, "asked", [])
    return Slow


async def test_the_loop_runs_while_files_are_counted(slow: type[Slow]) -> None:
    scrape = asyncio.create_task(Exposition("sidecar", None).text(""))

    async def is_asked() -> bool:
        return bool(slow.asked)

    await eventually(is_asked)
    assert not scrape.done()
    slow.goes_on.set()
    body, _ = await scrape
    assert b"process_open_fds" in body
    assert b"process_resident_memory_bytes" in body


async def test_many_scrapes_count_once(slow: type[Slow], monkeypatch: pytest.MonkeyPatch) -> None:
    """The sidecar answers /metrics without a key, and its threads are for others too."""
    monkeypatch.setattr(metrics, "KERNEL_EVERY_S", 3_600.0)
    exposition = Exposition("sidecar", None)
    scrapes = [asyncio.create_task(exposition.text("")) for _ in range(20)]
    slow.goes_on.set()
    bodies = [body for body, _ in await asyncio.gather(*scrapes)]
    assert all(b"process_open_fds" in body for body in bodies)
    assert len(slow.asked) == 1
