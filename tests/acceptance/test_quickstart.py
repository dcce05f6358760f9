"""docs/quickstart.md, typed in as it stands on empty servers: ten minutes are a minute here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

import pytest
from support.servers import select_one

from taximeter.api.embedded.machine import LOOPBACK, free_port

PAGE = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.DOTALL)

# Around the page: a provider that costs nothing, and the end, which a person makes with Ctrl-C.
TERMINAL = """
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
taximeter simulator --port {port} &
export ANN OPENAI_API_KEY=unused TAXIMETER_SIDECAR_DRAIN_S=0
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_can_be_typed_in(redis_url: str, empty_database_url: str, tmp_path: Path) -> None:
    assert BLOCKS[0] == ("sh", "pip install 'taximeter[server]'\n")
    provider, api, sidecar = (free_port() for _ in range(3))
    script = TERMINAL.format(port=provider)
    for language, text in BLOCKS[1:]:
        script += text if language == "sh" else f"python - <<'END'\n{text}END\n"
    places = {
        "redis://127.0.0.1:6379/0": redis_url,
        "postgresql://127.0.0.1:5432/taximeter": empty_database_url,
        "https://api.openai.com/v1": f"http://{LOOPBACK}:{provider}/v1",
        "8084": str(api),
        "8086": str(sidecar),
    }
    for place, ours in places.items():
        assert place in script
        script = script.replace(place, ours)
    with (tmp_path / "log").open("w+") as log:
        terminal = subprocess.Popen(
            ["bash", "-c", script],
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = terminal.wait(200)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(terminal.pid, SIGKILL)
            terminal.wait()
        log.seek(0)
        told = log.read()
    assert code == 0, told[-4000:]
    assert "HTTP/1.1 200" in told
    cost, left = (
        re.search(rf"^{name}: ([\d.]+)\r?$", told, re.MULTILINE | re.IGNORECASE)
        for name in ("X-Cost-Incurred", "X-Credits-Remaining")
    )
    assert cost is not None
    assert left is not None
    assert float(cost[1]) > 0
    assert float(left[1]) == pytest.approx(500 - float(cost[1]))
    assert "The books are right." in told
    assert select_one(empty_database_url, "SELECT count(*) > 0 FROM organizations") == "t"
