"""docs/prices.md as it stands: its files, its commands, and what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from taximeter.meter.pricing import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "prices.md").read_text(encoding="utf-8")
STEPS = re.findall(r"```sh\n(.*?)```\n```text\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_is_true(tmp_path: Path) -> None:
    [prices] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    [price_map] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "prices.toml").write_text(prices)
    (tmp_path / "map.json").write_text(price_map)
    assert PAGE.count("```sh") == len(STEPS) == 5
    for command, promised in STEPS:
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        expression = "".join(map(_line, promised.splitlines()))
        assert re.fullmatch(expression, ran.stdout), ran.stdout


def _line(promised: str) -> str:
    """One line of output, whose columns may stand further apart; dots are any number of lines."""
    if promised == "...":
        return r"(?:.*\n)*?"
    return r" *" + r" +".join(map(re.escape, promised.split())) + r"\n"


def test_every_kind_is_described() -> None:
    for kind in KINDS:
        assert f"`{kind}`" in PAGE, kind
