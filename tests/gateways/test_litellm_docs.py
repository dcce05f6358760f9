"""docs/litellm.md as it stands: its configuration, its commands, its table of settings."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import httpx
import pytest
from support.litellm_proxy import running
from support.shard import ScriptedShard
from support.sidecar import FUNDS, calling, served
from support.waiting import eventually

from taximeter.meter import InvalidRequest, Meter
from taximeter.meter.litellm.settings import LiteLLMSettings
from taximeter.meter.pricing import Pricer
from taximeter.meter.sidecar import create_sidecar

PAGE = (Path(__file__).parents[2] / "docs" / "litellm.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
[CONFIG] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.timeout(600)
async def test_the_page_is_true(
    litellm_python: Path,
    provider: str,
    meter: Meter,
    pricer: Pricer,
    shard: ScriptedShard,
    tmp_path: Path,
) -> None:
    """The page's configuration and commands charge a request; then LiteLLM is killed in the middle
    of a stream, and the hold ends by itself with what was delivered.
    """
    if shutil.which("curl") is None:
        pytest.skip("curl is missing")
    _, start, call = COMMANDS
    settings = dict(
        shlex.split(line)[1].split("=", 1)
        for line in start.splitlines()
        if line.startswith("export ")
    )
    # The page makes one up; the proxy of the tests has made its own.
    assert settings.pop("LITELLM_MASTER_KEY").startswith("sk-$")
    assert start.splitlines()[-1] == "litellm/bin/litellm --config config.yaml --port 4000"
    assert len(CONFIG.splitlines()) <= 20
    assert settings["TAXIMETER_SIDECAR_URL"] == LiteLLMSettings().sidecar_url
    async with served(create_sidecar(meter, pricer=pricer)) as url, calling(url) as caller:
        settings |= {
            "TAXIMETER_SIDECAR_URL": url,
            "TAXIMETER_LITELLM_HOLD_S": "3",
            "TAXIMETER_LITELLM_TIMEOUT_S": "20",
            "OPENAI_API_KEY": "unused",
            "OPENAI_BASE_URL": f"{provider}/v1",
        }
        with running(litellm_python, tmp_path, CONFIG, settings) as proxy:
            command = call.replace("http://127.0.0.1:4000", proxy.url)
            told = await caller.shell(f"LITELLM_MASTER_KEY={proxy.master_key}\n{command}")
            head, _, body = told.partition("\r\n\r\n")
            cost = pricer.price("gpt-4o-mini").cost(json.loads(body)["usage"])
            assert head.startswith("HTTP/1.1 200")
            assert f"x-credits-remaining: {(FUNDS - cost) / 1000:.3f}" in head
            assert f"x-cost-incurred: {cost / 1000:.3f}" in head
            assert await shard.account("acme/ann") == (FUNDS - cost, 0, 1)

            body = {
                **{"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}]},
                **{"stream": True, "max_tokens": 5000, "simulate": {"chunk_delay_s": 0.3}},
            }
            headers = {"Authorization": f"Bearer {proxy.master_key}"}
            async with (
                httpx.AsyncClient(base_url=proxy.url, timeout=60, trust_env=False) as client,
                client.stream(
                    "POST", "/v1/chat/completions", json=body, headers=headers
                ) as response,
            ):
                call_id = response.headers["x-litellm-call-id"]
                lines = response.aiter_lines()

                async def progress() -> bool:
                    await anext(lines)
                    return await reported(shard, call_id) > 0

                await eventually(progress, within_s=60, what="a heartbeat")
                proxy.kill()
        await ends_by_itself(shard, call_id, cost)


async def reported(shard: ScriptedShard, request_id: str) -> int:
    """The progress that a hold knows of."""
    record = await shard.redis.hget(shard.keys.holds, f"acme/{request_id}")
    return int((record or b"0\t\t0").split(b"\t")[2])


async def ends_by_itself(shard: ScriptedShard, request_id: str, before: int) -> None:
    progress = await reported(shard, request_id)
    assert (await shard.account("acme/ann"))[1] > progress > 0
    await shard.overdue(request_id, "acme")
    await shard.sweep()
    event = (await shard.events())[-1]
    assert event[1] == "expire"
    assert int(event[4]) == progress
    assert await shard.account("acme/ann") == (FUNDS - before - progress, 0, 1)


def test_the_table_of_settings_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(TAXIMETER_\w+)` \| (?:`(.*?)`)? ?\| ", PAGE, re.MULTILINE)
    prefix = {"sidecar_url": "TAXIMETER_SIDECAR_URL", "sidecar_key": "TAXIMETER_SIDECAR_KEY"}
    assert rows == [
        (prefix.get(each.name, f"TAXIMETER_LITELLM_{each.name.upper()}"), str(each.default))
        for each in dataclasses.fields(LiteLLMSettings)
    ]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TAXIMETER_LITELLM_HOLD_S", "soon", "a number"),
        ("TAXIMETER_LITELLM_HOLD_S", "0", "from 1 to 86400"),
        ("TAXIMETER_LITELLM_HOLD_S", "nan", "from 1 to 86400"),
        ("TAXIMETER_LITELLM_OUTPUT_TOKENS", "1.5", "a number"),
        ("TAXIMETER_SIDECAR_URL", "redis://x", "unix:///"),
        ("TAXIMETER_LITELLM_ORG", "key.password", "comma separated list"),
        ("TAXIMETER_LITELLM_USER", " , ", "comma separated list"),
    ],
)
def test_a_bad_setting_is_named(variable: str, value: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{variable} must be .*{said}"):
        LiteLLMSettings.from_environment({variable: value})
