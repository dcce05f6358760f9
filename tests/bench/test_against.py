"""Two clones in turns: here this one beside itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import against
from bench.harness import BenchFailed
from bench.runs import ROOT
from bench.scale import QUICK
from bench.servers import Servers


async def test_a_clone_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valgrind takes too long for here: it is a program that counts what it is told."""
    program = tmp_path / "valgrind"
    program.write_text('#!/bin/sh\nshift 3\n"$@"\necho "==1== I   refs:      1,000,000" >&2\n')
    program.chmod(0o755)
    monkeypatch.setattr(against, "WORK", (("charges", 10, 400), ("requests", 10, 400)))
    monkeypatch.setattr(against, "COUNTED", (("charges", 10),))
    monkeypatch.setattr(against.shutil, "which", lambda name: str(program))
    figures = await against.run(Servers(tmp_path / "servers", QUICK, against=ROOT))
    assert [one.name for one in figures] == [
        *(f"against_charges_10_{name}" for name in ("client_us", "server_us", "per_second")),
        *(f"against_requests_10_{name}" for name in ("client_us", "server_us", "per_second")),
        "against_charges_10_instructions",
    ]
    for one in figures[:-1]:
        assert one.ratio is not None
        assert one.ratio.low > 0
    assert [child for child in (tmp_path / "servers").iterdir()] == []


async def test_what_is_no_clone_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BenchFailed, match="has no taximeter, so it is no clone of ours"):
        await against.run(Servers(tmp_path, QUICK, against=tmp_path))
    (tmp_path / "taximeter").mkdir()
    (tmp_path / "tests" / "bench").mkdir(parents=True)
    (tmp_path / "tests" / "bench" / "live.py").write_text("")
    with pytest.raises(BenchFailed, match="theirs does not run: KeyError: 'LiveShard'"):
        await against.run(Servers(tmp_path / "servers", QUICK, against=tmp_path))
