"""What is kept of runs, and how it is drawn."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import plot
from bench.conditions import Span
from bench.harness import BenchFailed, Figure, Spread, Target, value
from bench.histogram import STEPS, Histogram, starts_ms
from bench.report import as_dict, machine
from bench.runs import FILE, RUNS_MAX, add, commit_of, entry, points, read
from bench.suite import Report
from bench.test_conditions import AFTER, BEFORE, after

TIMES = Histogram.of("ours", [0.001, 0.0011, 0.1])


def report(ours: float = 30.0, *, is_busy: bool = False) -> Report:
    return Report(
        [
            Figure(
                "charges_100", "charges", "/s", Spread((ours, ours + 1, ours + 2)),
                Spread((10.0, 10.0, 10.0)), "redis-py", Target(2, "at least"), times=(TIMES,),
            ),
            Figure("memory_hold", "hold", "B", value(314.15926)),
        ],
        {"charges": 1.0},
        {"charges_100": "charges", "memory_hold": "charges"},
        {"charges": Span(BEFORE, after(busy_s=6.0) if is_busy else AFTER, 2)},
    )  # fmt: skip


def run(**given: Any) -> dict[str, Any]:
    where = machine({"redis": "valkey 9.1.2", "postgres": "Postgres 18.6"})
    return entry(report(**given), where, "0123456789ab")


def test_a_run_tells_what_was_measured_on_what_and_beside_whom(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    assert add(run(is_busy=True), file) == 1
    (kept,) = read(file)
    assert kept["commit"] == "0123456789ab"
    assert kept["machine"].keys() == {"cpu", "system", "python", "redis", "postgres"}
    assert kept["conditions"]["others"] == 0.6
    assert kept["conditions"]["calibration"].keys() == {"python", "redis", "disk"}
    assert kept["conditions"]["busy"] == {"charges": ["others took 0.60 of 2 cores"]}
    assert kept["figures"] == {
        "charges_100": {
            "unit": "/s", "ours": 31.0, "low": 30.0, "high": 32.0, "baseline": 10.0, "ratio": 3.1,
            "verdict": "withheld",
        },
        "memory_hold": {"unit": "B", "ours": 314.16, "low": 314.16, "high": 314.16},
    }  # fmt: skip


def test_nothing_that_is_kept_says_whose_machine_it_was() -> None:
    text = json.dumps(run()) + FILE.read_text("utf-8") if FILE.exists() else json.dumps(run())
    for secret in (socket.gethostname(), str(Path.cwd()), str(Path.home()), "://", "/home/"):
        assert secret in ("", "/") or secret not in text, secret


def test_the_oldest_run_goes_when_there_are_too_many(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text("".join(json.dumps({**run(), "at": str(n)}) + "\n" for n in range(RUNS_MAX)))
    assert add({**run(), "at": "newest"}, file) == RUNS_MAX
    kept = read(file)
    assert (len(kept), kept[0]["at"], kept[-1]["at"]) == (RUNS_MAX, "1", "newest")


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"at": "x", "figures": []}', "null"])
def test_a_line_that_is_no_run_is_named_and_nothing_is_written(tmp_path: Path, line: str) -> None:
    file = tmp_path / "runs.jsonl"
    text = json.dumps(run()) + "\n" + line + "\n"
    file.write_text(text)
    with pytest.raises(BenchFailed, match=r"line 2 of runs\.jsonl is no run of the bench"):
        add(run(), file)
    assert file.read_text() == text


def test_what_is_committed_can_be_read() -> None:
    assert len(read(FILE)) <= RUNS_MAX
    assert read(FILE.with_name("there-is-none.jsonl")) == []


def test_points_are_ratios_where_there_are_any_and_say_when_it_was_quiet() -> None:
    runs = [run(), run(ours=50.0, is_busy=True), {"at": "x", "figures": {}}]
    assert [(number, quiet) for _, number, quiet in points(runs, "charges_100")] == [
        (3.1, True),
        (5.1, False),
    ]
    assert [number for _, number, _ in points(runs, "memory_hold")] == [314.16, 314.16]


def test_which_figures_are_drawn() -> None:
    runs = [run()]
    assert plot.chosen(runs, []) == ["charges_100", "memory_hold"]
    assert plot.chosen(runs, ["mem"]) == ["memory_hold"]
    with pytest.raises(BenchFailed, match="no run has a figure called hold"):
        plot.chosen(runs, ["hold"])
    with pytest.raises(BenchFailed, match="no run is written down yet"):
        plot.chosen([], [])
    missed = run(ours=10.0)
    assert plot.chosen([missed], []) == ["charges_100"]
    assert plot.unit_of(runs, "charges_100") == "x of its baseline"
    assert plot.unit_of(runs, "memory_hold") == "B"


def test_a_histogram_keeps_what_was_slow() -> None:
    times = Histogram.of("x", [0.0, 1e-6, 1e-3, 1e-3, 1.0])
    assert times.counts == {0: 2, 3 * STEPS: 2, 6 * STEPS: 1}
    assert (times.total, starts_ms(0), starts_ms(3 * STEPS)) == (5, 1e-3, pytest.approx(1.0))
    assert times.beyond() == [(1e-3, 1.0), (pytest.approx(1.0), 0.6), (pytest.approx(1e3), 0.2)]
    assert times.as_dict()["counts"] == {"0.001": 2, "1": 2, "1000": 1}
    found = as_dict(report(), machine({}))["figures"]
    assert [len(one["times"]) for one in found] == [1, 0]


def test_a_library_that_is_missing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "runs.jsonl"
    add(run(), file)
    monkeypatch.setattr(plot, "can_draw", lambda library: False)
    told = CliRunner().invoke(plot.command, ["--file", str(file)])
    assert (told.exit_code, told.stdout) == (1, "\ncharges_100\n")
    assert told.stderr == (
        "Error: plotille is not installed: make bench-history installs what draws, as does"
        " pip install --requirement .ci/constraints-plots.txt\n"
    )


def test_lines_in_the_terminal(tmp_path: Path) -> None:
    pytest.importorskip("plotille", reason="make bench-history installs what draws")
    file = tmp_path / "runs.jsonl"
    add(run(), file)
    add(run(ours=50.0, is_busy=True), file)
    told = CliRunner().invoke(plot.command, ["charges_100", "--file", str(file)])
    assert told.exit_code == 0, told.stderr
    assert "on a quiet machine" in told.stdout
    assert max(map(len, told.stdout.splitlines())) <= plot.WIDTH_MAX
    assert "ours (3)" in plot.draw_times([TIMES, Histogram("none", {})], 80)


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="make bench-history installs what draws")
    file = tmp_path / "runs.jsonl"
    add(run(), file)
    told = CliRunner().invoke(plot.command, ["--file", str(file), "--png", str(tmp_path / "png")])
    assert told.exit_code == 0, told.stderr
    drawn = [*plot.pictures_of_times(report().figures, tmp_path), *(tmp_path / "png").iterdir()]
    assert {one.name for one in drawn} == {"charges_100.png", "memory_hold.png"}
    assert all(one.read_bytes().startswith(b"\x89PNG") for one in drawn)
    (tmp_path / "taken").write_text("")
    with pytest.raises(plot.PlotFailed, match="cannot be written"):
        plot.pictures_of_times(report().figures, tmp_path / "taken" / "x")


def test_the_commit_is_that_of_the_clone(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None
