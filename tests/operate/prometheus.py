"""Runs Debian's prometheus and promtool: on ports of ours, with its data in a folder of a test."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any

import httpx
import pytest
import yaml

from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.embedded.spawn import spawn

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "taximeter.rules.yml"
RUNS_S_MAX = 120.0


def program(name: str) -> str:
    """Where it is. Skips, and says why, where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"NOT TESTED: install Debian's package prometheus ({name} is missing)")
    return found


def promtool(*arguments: str | Path, given: str = "") -> str:
    """What it says; fails when it objects."""
    finished = subprocess.run(
        [program("promtool"), *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        timeout=RUNS_S_MAX,
        check=False,
    )
    said = finished.stdout + finished.stderr
    assert finished.returncode == 0, said
    return said


def alarms() -> dict[str, dict[str, Any]]:
    """The rules that alarm, by name."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def rules_with(*, every_s: int, pause: bool) -> str:
    """The rules as they are, or with every `for` shortened to two evaluations."""
    rules = yaml.safe_load(RULES.read_text("utf-8"))
    for group in rules["groups"]:
        group["interval"] = f"{every_s}s"
        for rule in group["rules"]:
            if not pause and "for" in rule:
                rule["for"] = f"{2 * every_s}s"
    return yaml.safe_dump(rules, sort_keys=False)


@dataclass
class Prometheus:
    """One that runs. Every question goes over its HTTP API."""

    url: str
    log: Path

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series that a query has now."""
        answer = httpx.post(
            f"{self.url}/api/v1/query", data={"query": query}, timeout=60, trust_env=False
        )
        assert answer.status_code == 200, f"{query}: {answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def firing(self) -> set[str]:
        return {series["metric"]["alertname"] for series in self.ask('ALERTS{alertstate="firing"}')}

    def until(self, condition: str, *, within_s: float = RUNS_S_MAX) -> None:
        """Return as soon as a query has a series."""
        end = time.monotonic() + within_s
        while not self.ask(condition):
            assert time.monotonic() < end, f"{condition} did not come true; {self.firing()} fire"
            time.sleep(0.25)

    def until_alarm(self, name: str, *, fires: bool = True, within_s: float = RUNS_S_MAX) -> None:
        """Return when it fires, or does not."""
        firing = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
        self.until(firing if fires else f"absent({firing})", within_s=within_s)


@contextmanager
def prometheus(
    folder: Path, targets: Mapping[str, str], rules: str, *, every_s: int
) -> Iterator[Prometheus]:
    """Scrape these (job: host:port) until the block ends."""
    binary, port = program("prometheus"), free_port()
    folder.mkdir()
    (folder / "rules.yml").write_text(rules)
    config = {
        "global": {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [target]}]}
            for job, target in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    log = folder / "log"
    with log.open("wb") as output:
        child = spawn(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={LOOPBACK}:{port}",
            ],
            log=output,
            death_signal=SIGKILL,
        )
    try:
        running = Prometheus(f"http://{LOOPBACK}:{port}", log)
        _wait_until_ready(running, child)
        yield running
    finally:
        if child.poll() is None:
            child.send_signal(SIGKILL)
        child.wait(30)


def _wait_until_ready(running: Prometheus, child: Any) -> None:
    end = time.monotonic() + RUNS_S_MAX
    while True:
        assert child.poll() is None, running.log.read_text()
        try:
            if httpx.get(f"{running.url}/-/ready", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, running.log.read_text()
        time.sleep(0.1)
