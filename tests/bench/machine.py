"""Reads the machine: what all of its processes took and what our own did, who waited for what, and
how long three fixed pieces of work take.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import redis as redis_py

from bench.conditions import Counters, Gauge, Look
from bench.harness import percentile

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")
_STAT: Final = Path("/proc/stat")
_PRESSURE: Final = Path("/proc/pressure")
_PARENT, _TIMES = 1, slice(11, 15)
"""Fields of /proc/PID/stat, counted from the one after the name: user and system time, of the
process and of its children that have ended.
"""
_USER, _NICE, _SYSTEM, _STOLEN = 0, 1, 2, 7
"""Fields of the first line of /proc/stat. What interrupts take is nobody's."""
_KERNEL: Final = 2
"""The parent of the kernel's own threads, where they can be seen."""
_WORK: Final = 2_000
_TRIVIAL: Final = "return redis.call('DECRBY', KEYS[1], ARGV[1])"
_PAGE: Final = b"x" * 4_096


@dataclass(frozen=True, slots=True)
class Effort:
    """How often each piece of work is timed in a look, and how long the bench rests for it."""

    python: int = 60
    redis: int = 400
    disk: int = 20
    rest_s: float = 0.5


@dataclass(slots=True)
class Machine:
    """Takes looks. `data_dir` lies on the disk that the servers of the bench use, and `redis_url`
    is a server that nobody else uses meanwhile.
    """

    data_dir: Path
    redis_url: str
    key: str
    """A key that the trivial script may write."""
    effort: Effort = field(default_factory=Effort)

    def look(self) -> Look:
        """Time each piece of work, then rest; takes about a second. Raises what Redis or the disk
        raise.
        """
        calibration: dict[Gauge, float] = {
            "python": _python_us(self.effort.python),
            "redis": self._redis_us(),
            "disk": self._disk_us(),
        }
        return Look(counters(), stalled(self.effort.rest_s), calibration)

    def _redis_us(self) -> float:
        """A lone script call over one connection, sent when the last one is back: what nine of ten
        of them exceed, since neighbours only ever add to it. Both ends share a core meanwhile: to
        wake the other core takes longer than the call, and which of the two it is, is chance.
        """
        with redis_py.Redis.from_url(self.redis_url) as client:
            sha = str(client.script_load(_TRIVIAL))
            call = client.connection_pool.get_connection()
            request = call.pack_command("EVALSHA", sha, 1, self.key, 1)
            took = []
            with _on_one_core(client.info("server")):
                for _ in range(self.effort.redis):
                    started = time.perf_counter()
                    call.send_packed_command(request)
                    call.read_response()
                    took.append(time.perf_counter() - started)
            call.disconnect()
            client.delete(self.key)
        return percentile(took, 0.1) * 1e6

    def _disk_us(self) -> float:
        """The median of writing a page to the end of a file and having it on the disk."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        path = self.data_dir / "calibration"
        took = []
        try:
            with path.open("wb", buffering=0) as file:
                for _ in range(self.effort.disk):
                    started = time.perf_counter()
                    file.write(_PAGE)
                    os.fdatasync(file.fileno())
                    took.append(time.perf_counter() - started)
        finally:
            path.unlink(missing_ok=True)
        return median(took) * 1e6


@contextmanager
def _on_one_core(server: Mapping[str, Any]) -> Iterator[None]:
    """Keep this thread and the main thread of a server, by its INFO, on one core until the block
    ends. Where the system has no such thing, or the server runs elsewhere, both stay as they are.
    """
    pid, before = int(server["process_id"]), {}
    try:
        # The same number may be another process here.
        with suppress(AttributeError, OSError):
            if os.readlink(_PROC / str(pid) / "exe") == os.path.realpath(server["executable"]):
                before = {one: os.sched_getaffinity(one) for one in (0, pid)}
                for one in before:
                    os.sched_setaffinity(one, {min(before[0])})
        yield
    finally:
        for one, cores in before.items():
            with suppress(OSError):
                os.sched_setaffinity(one, cores)


def _python_us(times: int) -> float:
    """The lowest of some, since neighbours only ever add to it."""
    lowest = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        _python_work()
        lowest = min(lowest, time.perf_counter() - started)
    return lowest * 1e6


def _python_work() -> int:
    """What gateways do: calls, dictionaries, text."""
    seen: dict[str, int] = {}
    total = 0
    for number in range(_WORK):
        name = f"user-{number % 97}"
        seen[name] = seen.get(name, 0) + number
        total += len(name)
    return total + len(seen)


def counters() -> Counters | None:
    """What the machine counts; None where there is no /proc."""
    try:
        first = _STAT.read_text("ascii").splitlines()[0].split()[1:]
        stats = _processes()
    except (OSError, IndexError):
        return None
    ticks = [int(number) for number in first]
    busy = ticks[_USER] + ticks[_NICE] + ticks[_SYSTEM]
    stolen = ticks[_STOLEN] if len(ticks) > _STOLEN else 0
    own = _taken_s(stats, _with_children(stats, os.getpid()))
    kernel = {pid: _taken_s(stats, {pid}) for pid in _with_children(stats, _KERNEL)}
    return Counters(time.monotonic(), busy / _TICKS, stolen / _TICKS, own, kernel)


def own_processor_s() -> float:
    """Processor time of this process and of all that it has started so far, also of what has
    ended.
    """
    stats = _processes()
    return _taken_s(stats, _with_children(stats, os.getpid()))


def thread_s(pid: int) -> float:
    """Processor time of a process with one thread, to the nanosecond. Raises OSError."""
    return int((_PROC / str(pid) / "schedstat").read_text("ascii").split()[0]) / 1e9


def _processes() -> dict[int, list[str]]:
    """The fields of /proc/PID/stat from the one after the name, of all there are."""
    stats: dict[int, list[str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text("utf-8", "replace")
        except OSError:  # It has ended.
            continue
        stats[int(folder.name)] = text.rpartition(")")[2].split()
    return stats


def _with_children(stats: Mapping[int, list[str]], pid: int) -> set[int]:
    found, grown = {pid}, True
    while grown:
        more = {one for one, fields in stats.items() if int(fields[_PARENT]) in found} - found
        found, grown = found | more, bool(more)
    return found & stats.keys()


def _taken_s(stats: Mapping[int, list[str]], pids: set[int]) -> float:
    return sum(sum(map(int, stats[pid][_TIMES])) for pid in pids) / _TICKS


def stalled(rest_s: float) -> dict[str, float]:
    """The share of a rest in which at least one process of the machine waited, by resource. Empty
    where the system does not tell.
    """
    before, began = _stall_totals(), time.monotonic()
    time.sleep(rest_s)
    after, took = _stall_totals(), max(time.monotonic() - began, 1e-6)
    return {name: (after[name] - before[name]) / 1e6 / took for name in before.keys() & after}


def _stall_totals() -> Mapping[str, int]:
    """Microseconds so far."""
    found = {}
    for name in ("cpu", "io", "memory"):
        with suppress(OSError, ValueError, IndexError):
            some = (_PRESSURE / name).read_text("ascii").splitlines()[0]
            found[name] = int(some.rpartition("total=")[2])
    return found
