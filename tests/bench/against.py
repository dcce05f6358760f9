"""Compares two clones in one run, in turns: what an operation costs the client and Redis with the
code of each. What others do with the machine meanwhile hits both.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import IO, Any, Final

from bench.harness import INSTRUCTIONS, BenchFailed, Figure, Spread, Target
from bench.runs import ROOT, commit_of
from bench.servers import Servers
from taximeter.api.embedded.spawn import Child, spawn
from taximeter.api.embedded.valkey import EmbeddedValkey

WORK: Final = (
    ("charges", 100, 20_000),
    ("charges", 1_000, 20_000),
    ("requests", 1, 1_000),
    ("requests", 100, 10_000),
    ("requests", 1_000, 10_000),
)
"""What is done, by how many callers, and how often in a round."""
COUNTED: Final = (("charges", 100), ("requests", 100))
"""What instructions are counted of."""
FEW, MANY = 300, 1_500
"""Operations of the two runs whose difference is what operations take, and not the start."""
ROUNDS, COUNTED_ROUNDS = 9, 2
WITHIN: Final = 1.03
"""Most that ours may take of what the other takes."""
ANSWER_S_MAX: Final = 120.0
_SCRIPT: Final = Path(__file__).with_name("turns.py")
_REFS: Final = re.compile(r"I\s+refs:\s+([\d,]+)")
_NEEDED: Final = ("taximeter", "tests/bench/live.py")


@dataclass(slots=True)
class Clone:
    """A process of one clone's code, with a Redis of its own."""

    name: str
    folder: Path
    url: str
    prefix: str
    child: Child
    tell: IO[bytes]
    said: IO[bytes]

    def ask(self, **command: Any) -> dict[str, Any]:
        """Have it do something. Raises BenchFailed with what it printed."""
        self.tell.write(json.dumps(command).encode() + b"\n")
        self.tell.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """What it has to say next. What is no answer, such as a warning, is what it died of when
        nothing follows.
        """
        last = ""
        while True:
            ready, _, _ = select.select([self.said], [], [], ANSWER_S_MAX)
            line = self.said.readline() if ready else b""
            if not line:
                raise BenchFailed(f"{self.name} does not run: {last or 'it does not answer'}")
            try:
                found: dict[str, Any] = json.loads(line)
            except ValueError:
                last = line.decode(errors="replace").strip() or last
            else:
                return found


async def run(servers: Servers) -> list[Figure]:
    """Rounds of each kind of work in turns; then instructions, where they can be counted."""
    assert servers.against is not None
    other = servers.against.resolve()
    for needed in _NEEDED:
        if not (other / needed).exists():
            raise BenchFailed(f"--against: {other.name} has no {needed}, so it is no clone of ours")
    quick = servers.scale.rounds < ROUNDS // 2
    figures: list[Figure] = []
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(_clone(servers, name, folder))
            for name, folder in (("ours", ROOT), ("theirs", other))
        )
        of = commit_of(other) or "the other clone"
        for work, callers, operations in WORK:
            figures += _in_turns(ours, theirs, work, callers, operations, quick, of)
        program = shutil.which("valgrind")
        if program is not None:
            for work, callers in COUNTED:
                figures.append(_instructions(program, ours, theirs, work, callers, quick, of))
    return figures


def _in_turns(
    ours: Clone, theirs: Clone, work: str, callers: int, operations: int, quick: bool, of: str
) -> Iterator[Figure]:
    rounds, operations = (2, operations // 20) if quick else (ROUNDS, operations)
    seen: dict[str, list[Mapping[str, float]]] = {ours.name: [], theirs.name: []}
    for number in range(rounds + 1):
        # Who begins is the other one each time.
        for clone in (ours, theirs) if number % 2 else (theirs, ours):
            found = clone.ask(do="round", work=work, callers=callers, operations=operations)
            if number:  # The first of each is to warm up.
                seen[clone.name].append(found)
    for name, title, unit, bound in (
        ("client_us", "processor of the client", "µs", Target(WITHIN, "at most")),
        ("server_us", "processor of Redis", "µs", Target(WITHIN, "at most")),
        ("per_second", "rate", "/s", None),
    ):
        yield Figure(
            f"against_{work}_{callers}_{name}",
            f"{_what(work, callers)}: {title}",
            unit,
            Spread(tuple(found[name] for found in seen[ours.name])),
            Spread(tuple(found[name] for found in seen[theirs.name])),
            of,
            bound,
        )


def _what(work: str, callers: int) -> str:
    what = "a charge" if work == "charges" else "a reserve and its commit"
    return f"{what}, {callers:,} caller{'s' if callers > 1 else ''}"


def _instructions(
    program: str, ours: Clone, theirs: Clone, work: str, callers: int, quick: bool, of: str
) -> Figure:
    seen: dict[str, list[float]] = {ours.name: [], theirs.name: []}
    for _ in range(1 if quick else COUNTED_ROUNDS):
        for clone in (ours, theirs):
            few, many = (_counted(program, clone, work, callers, times) for times in (FEW, MANY))
            seen[clone.name].append((many - few) / (MANY - FEW) / 1_000)
    return Figure(
        f"against_{work}_{callers}_instructions",
        f"{_what(work, callers)}: instructions of the client",
        INSTRUCTIONS,
        Spread(tuple(seen[ours.name])),
        Spread(tuple(seen[theirs.name])),
        of,
        Target(WITHIN, "at most"),
    )


def _counted(program: str, clone: Clone, work: str, callers: int, times: int) -> int:
    """Instructions of a process that does `times` operations. Raises BenchFailed when it fails."""
    clone.ask(do="reset")
    done = subprocess.run(
        [
            *(program, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
            *(sys.executable, "-P", str(_SCRIPT), clone.url, clone.prefix),
            *("once", work, str(callers), str(times)),
        ],
        env={**_environment(clone.folder), "PYTHONHASHSEED": "0"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=ANSWER_S_MAX * 5,
        check=False,
    )
    found = _REFS.search(done.stderr)
    if done.returncode != 0 or found is None:
        raise BenchFailed(f"{clone.name} does not run in valgrind: {done.stderr[-500:]}")
    clone.ask(do="prove", charges=times)
    return int(found[1].replace(",", ""))


@contextmanager
def _clone(servers: Servers, name: str, folder: Path) -> Iterator[Clone]:
    """Our interpreter and libraries with that clone's code, on a server that it has for itself."""
    with ExitStack() as stack:
        place = servers.data_dir / f"against-{name}"
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        server = stack.enter_context(EmbeddedValkey(place, binary=servers.redis_binary))
        servers.describe(server.url)
        (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
        tell, said = (
            stack.enter_context(os.fdopen(in_write, "wb")),
            stack.enter_context(os.fdopen(out_read, "rb", buffering=0)),
        )
        with os.fdopen(in_read, "rb") as stdin, os.fdopen(out_write, "wb") as log:
            child = spawn(
                [sys.executable, "-P", str(_SCRIPT), server.url, servers.prefix],
                log=log,
                stdin=stdin,
                death_signal=SIGKILL,
                environment=_environment(folder),
            )
        stack.callback(_end, child)
        clone = Clone(name, folder, server.url, servers.prefix, child, tell, said)
        code = Path(str(clone.answer()["code"])).resolve()
        if not code.is_relative_to(folder.resolve()):
            raise BenchFailed(f"{name} runs the code of another clone than {folder.name}")
        yield clone


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join((str(folder), str(folder / "tests"))),
        "LC_ALL": "C",
        "TZ": "UTC",
    }


def _end(child: Child) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()
