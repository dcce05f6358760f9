"""What the gateways stand in front of and lean on: a simulated provider, a sidecar, an account."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from signal import SIGKILL

import httpx
import pytest
from redis.asyncio import Redis
from support.litellm_proxy import LiteLLM, installed, running
from support.shard import ScriptedShard
from support.sidecar import FUNDS
from support.wheel import shared_wheel

from taximeter.api.embedded.machine import LOOPBACK, free_port
from taximeter.api.embedded.spawn import spawn
from taximeter.meter import Meter
from taximeter.meter.pricing import Pricer
from taximeter.meter.wire.keys import ShardKeys

# Virtual keys are rows of LiteLLM's own database; its hook for own keys needs none.
CUSTOM_AUTH = """
from litellm.proxy._types import UserAPIKeyAuth

KEYS = {
    "sk-ann": {"metadata": {"org_id": "acme", "user_id": "ann"}},
    "sk-bob": {"team_metadata": {"org_id": "acme"}, "user_id": "bob"},
    "sk-poor": {"org_id": "acme", "user_id": "poor"},
    "sk-nobody": {"user_id": "nobody"},
}

async def user_api_key_auth(request, api_key):
    return UserAPIKeyAuth(api_key=api_key, **KEYS[api_key])
"""


@pytest.fixture
async def shard(redis: Redis) -> ScriptedShard:
    """Shard 0 of one, where acme/ann and acme/bob have 1,000 credits each, and acme/poor a tenth
    of a credit.
    """
    made = ScriptedShard(redis, ShardKeys("tm", 0))
    await made.open()
    await made.settler_was_there()
    for user, funds in (("ann", FUNDS), ("bob", FUNDS), ("poor", 100)):
        await made.load(f"acme/{user}", funds)
    return made


@pytest.fixture
async def meter(redis_url: str, shard: ScriptedShard) -> AsyncIterator[Meter]:
    async with await Meter.connect(redis_url) as made:
        yield made


@pytest.fixture(scope="session")
def pricer() -> Pricer:
    return Pricer()


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `taximeter simulator`."""
    port = free_port()
    with (tmp_path_factory.mktemp("simulator") / "log").open("wb") as log:
        child = spawn(
            [sys.executable, "-m", "taximeter.api", "simulator", "--port", str(port)],
            log=log,
            death_signal=SIGKILL,
        )
    url = f"http://{LOOPBACK}:{port}"
    try:
        end = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"{url}/v1/models", trust_env=False)
                break
            except httpx.TransportError:
                assert time.monotonic() < end, "no simulator"
                time.sleep(0.05)
        yield url
    finally:
        child.kill()
        child.wait()


@pytest.fixture(scope="session")
def litellm_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the environment that has the LiteLLM proxy and our wheel."""
    return installed(shared_wheel(tmp_path_factory))


@pytest.fixture(scope="session")
def sidecar_socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the proxy looks for its sidecar; every test serves one there."""
    return tmp_path_factory.mktemp("s") / "sidecar.sock"


@pytest.fixture(scope="session")
def litellm(
    litellm_python: Path,
    sidecar_socket: Path,
    provider: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LiteLLM]:
    """One proxy for all tests: models that the simulator answers, or LiteLLM's own mock."""
    folder = tmp_path_factory.mktemp("litellm")
    (folder / "own_keys.py").write_text(CUSTOM_AUTH)
    upstream = {"api_base": f"{provider}/v1", "api_key": "unused"}

    def model(name: str, **parameters: object) -> dict[str, object]:
        return {"model_name": name, "litellm_params": {"api_key": "unused", **parameters}}

    config = {
        "model_list": [
            model("mocked", model="openai/gpt-4o-mini", mock_response="Four words of answer."),
            model("simulated", model="openai/gpt-4o-mini", **upstream),
            model("dear", model="openai/gpt-4o", **upstream),
            # Has no Responses API of its own: LiteLLM asks it for chat completions.
            model(
                "bridged",
                model="deepseek/gpt-4o-mini",
                base_model="openai/gpt-4o-mini",
                **upstream,
            ),
            model("hosted", model="groq/openai/gpt-oss-120b", mock_response="Four words."),
            model(
                "deployed",
                model="azure/of-our-own",
                base_model="gpt-4o-mini",
                mock_response="Four words of answer.",
            ),
            model("broken", model="openai/gpt-4o-mini", api_base="http://127.0.0.1:9/v1"),
            model("vectors", model="openai/text-embedding-3-small", mock_response=[0.1, 0.2]),
            model("unpriced", model="openai/nobody-knows-it", mock_response="x"),
            model("pictures", model="openai/dall-e-3", mock_response="x"),
        ],
        "router_settings": {"num_retries": 1, "fallbacks": [{"broken": ["dear"]}]},
        "litellm_settings": {
            "callbacks": "taximeter.meter.litellm.callback",
            "telemetry": False,
        },
        "general_settings": {
            "master_key": "os.environ/LITELLM_MASTER_KEY",
            "custom_auth": "own_keys.user_api_key_auth",
        },
    }
    settings = {
        "TAXIMETER_SIDECAR_URL": f"unix://{sidecar_socket}",
        "TAXIMETER_LITELLM_HOLD_S": "30",
        "TAXIMETER_LITELLM_TIMEOUT_S": "20",
    }
    with running(litellm_python, folder, config, settings) as proxy:
        yield proxy
