"""`make growth` takes anybody's numbers, and says in one line what is wrong with them."""

from __future__ import annotations

from dataclasses import fields

import pytest

from growth.__main__ import OPTIONS, main
from growth.plan import Plan

SHORT = ["--operations", "2000"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["growth", *arguments])
    return main()


def test_every_number_of_a_plan_is_an_option() -> None:
    assert OPTIONS.keys() == {field.name for field in fields(Plan)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--requests", "0"], "'--requests': 0.0 is not in the range 1<=x<=1000000000.0."),
        (["--requests", "many"], "'--requests': 'many' is not a valid float range."),
        (["--largest", "2"], "'--largest': 2.0 is not in the range"),
        (["--organisations", "50"], "'--largest': 0.01 is less than an even share of 50"),
        (["--organisations", "1", "--largest", "1.1"], "'--largest'"),
        (["--front", "telnet"], "'--front': 'telnet' is not one of"),
        (["--round-trips-ms", "80;90"], "'--round-trips-ms': '80;90' is not a list such as 80,150"),
        (["--round-trips-ms", "-1"], "'--round-trips-ms'"),
        (["--cost", "5000"], "'--cost': 5000 is more than a lease, 1000."),
        (["--use", "nan"], "'--use'"),
        (["--nothing"], "No such option '--nothing'"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--requests", "1", "--organisations", "1", "--largest", "1", "--users", "1"],
        ["--requests", "1e9", "--settle", "1", "--disk-tb", "0.001"],
        ["--batch-max", "1", "--front", "streams", "--processes", "5"],
        ["--largest", "1", "--organisations", "2", "--shards", "1", "--abroad", "1"],
        ["--network-ms", "0", "--round-trips-ms", "0", "--pause-s", "0", "--lag-ms", "0"],
        ["--sidecars", "1", "--slice", "1", "--call-us", "0", "--memory-gb", "0.01"],
    ],
)
def test_numbers_at_the_edges_are_answered(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *SHORT, *arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert max(map(len, printed.out.splitlines())) <= 100
    assert "nan" not in printed.out


def test_the_same_seed_says_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for seed in ("1", "1", "2"):
        assert run(monkeypatch, *SHORT, "--seed", seed) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
