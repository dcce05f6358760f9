"""Answers of a sidecar that are lost or strange, where a real one would rarely give them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import eventually

from taximeter.meter.litellm import logger as module
from taximeter.meter.litellm.deployments import Model
from taximeter.meter.litellm.logger import TaximeterLogger
from taximeter.meter.litellm.settings import LiteLLMSettings
from taximeter.meter.litellm.sidecar import Answer, SidecarClient

SETTINGS = LiteLLMSettings(org="always:acme", user="always:ann", settle_s=5)
OPEN = {"reserved_millicredits": 50, "available_millicredits": 950, "replayed": False}
DONE = {"charged_millicredits": 7, "available_millicredits": 993}
LOST = Answer(0, {})


class Scripted(SidecarClient):
    """Gives these answers in turn, and remembers what was asked."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__(SETTINGS)
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.traces: list[dict[str, str]] = []

    async def call(
        self, op: str, fields: Mapping[str, Any], trace: Mapping[str, str] | None = None
    ) -> Answer:
        self.traces.append(dict(trace or {}))
        self.asked.append((op, json.loads(json.dumps(fields))))
        return self.answers.pop(0)

    def ops(self) -> list[str]:
        return [op for op, _ in self.asked]


@pytest.fixture(autouse=True)
def no_router(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "dearest_behind", lambda group, _: Model(group, None))
    monkeypatch.setattr(module, "model_of_deployment", lambda _: None)


def request(**headers: str) -> dict[str, Any]:
    return {
        **{"model": "gpt-4o-mini", "messages": [], "litellm_call_id": "r-1", "metadata": {}},
        "proxy_server_request": {"headers": headers},
    }


async def admit(client: Scripted, data: dict[str, Any]) -> TaximeterLogger:
    made = TaximeterLogger(SETTINGS, client)
    await made.async_pre_call_hook(object(), None, data, "acompletion")
    return made


async def until(client: Scripted, count: int) -> None:
    async def were_asked() -> bool:
        return len(client.asked) >= count

    await eventually(were_asked, what=f"{count} calls")


async def test_a_lost_reserve_is_released_only_under_an_id_of_our_own() -> None:
    """Under the caller's own id the hold may be that of another request of theirs."""
    client = Scripted(LOST, LOST)
    with pytest.raises(Exception, match="cannot be checked") as refused:
        await admit(client, request())
    assert refused.value.status_code == 503  # type: ignore[attr-defined]  # An HTTPException.
    await until(client, 2)
    assert client.ops() == ["reserve", "release"]
    client = Scripted(LOST)
    with pytest.raises(Exception, match="cannot be checked"):
        await admit(client, request(**{"x-litellm-call-id": "r-1"}))
    await asyncio.sleep(0)
    assert client.ops() == ["reserve"]


async def test_a_reserve_of_unknown_outcome_is_released_too() -> None:
    client = Scripted(Answer(503, {"error": {"code": "OUTCOME_UNKNOWN"}}), LOST)
    with pytest.raises(Exception, match="cannot be checked"):
        await admit(client, request())
    await until(client, 2)
    assert client.ops() == ["reserve", "release"]


ABOVE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Span:
    """What LiteLLM leaves in the caller's key where it traces, as OpenTelemetry has it."""

    def get_span_context(self) -> SimpleNamespace:
        state = SimpleNamespace(to_header=lambda: "")
        return SimpleNamespace(trace_id=0x4BF9, span_id=0xF0, trace_flags=1, trace_state=state)


@pytest.mark.parametrize(
    ("key", "headers", "sent"),
    [
        (None, {}, {}),
        (None, {"traceparent": ABOVE}, {"traceparent": ABOVE}),
        (
            None,
            {"traceparent": ABOVE, "tracestate": "a=1"},
            {"traceparent": ABOVE, "tracestate": "a=1"},
        ),
        (None, {"traceparent": ABOVE, "tracestate": "a=1\nx: y"}, {"traceparent": ABOVE}),
        (None, {"traceparent": f"{ABOVE}\r\nAuthorization: x"}, {}),
        (None, {"traceparent": ABOVE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)}, {}),
        (None, {"tracestate": "a=1"}, {}),
        # LiteLLM's own span is below its caller's, and above what is done here.
        (Span(), {"traceparent": ABOVE}, {"traceparent": f"00-{0x4BF9:032x}-{0xF0:016x}-01"}),
        ("another library's", {"traceparent": ABOVE}, {"traceparent": ABOVE}),
    ],
)
async def test_the_trace_of_the_request_goes_to_the_sidecar(
    key: object, headers: dict[str, str], sent: dict[str, str]
) -> None:
    client = Scripted(Answer(200, OPEN), LOST, Answer(200, DONE))
    data, caller = request(**headers), SimpleNamespace(parent_otel_span=key)
    made = TaximeterLogger(SETTINGS, client)
    await made.async_pre_call_hook(caller, None, data, "acompletion")
    answer = {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    await made.async_post_call_success_hook(data, caller, answer)
    await until(client, 3)
    assert client.ops() == ["reserve", "commit", "commit"]
    assert client.traces == [sent] * 3


async def test_the_service_tier_is_held_for() -> None:
    client = Scripted(Answer(200, OPEN))
    await admit(client, {**request(), "service_tier": "priority"})
    assert client.asked[0][1]["service_tier"] == "priority"


@pytest.mark.parametrize("code", ["REPLAYED", "CONFLICT"])
async def test_a_used_call_id_is_refused_and_its_hold_left_alone(code: str) -> None:
    """It is the hold of the request that used the id first."""
    client = Scripted(Answer(409, {"error": {"code": code, "details": {"state": "open"}}}))
    with pytest.raises(Exception, match="was used before") as refused:
        await admit(client, request())
    assert refused.value.status_code == 409  # type: ignore[attr-defined]  # An HTTPException.
    await asyncio.sleep(0)
    assert client.ops() == ["reserve"]


async def test_as_many_open_as_one_user_may_have_is_a_429_that_says_so() -> None:
    error = {"code": "TOO_MANY_HOLDS", "details": {"limit": "open_holds", "open_holds_max": 7}}
    client = Scripted(Answer(429, {"error": error}))
    with pytest.raises(Exception, match="7 requests open") as refused:
        await admit(client, request())
    answer: Any = refused.value  # An HTTPException.
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.detail["code"] == "TOO_MANY_HOLDS"
    assert client.ops() == ["reserve"], "nothing was held, so nothing is released"


async def test_a_charge_is_tried_until_the_answer_is_final(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong_key, unknown = Answer(401, {}), Answer(404, {"error": {"code": "ACCOUNT_NOT_FOUND"}})
    client = Scripted(Answer(200, OPEN), LOST, wrong_key, unknown, Answer(200, DONE))
    data = request()
    made = await admit(client, data)
    answer = {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    await made.async_post_call_success_hook(data, None, answer)
    await made.async_log_success_event(data, answer, None, None)
    await made.async_post_call_failure_hook(data, ValueError(), None)
    await until(client, 5)
    assert client.ops() == ["reserve", *["commit"] * 4]
    assert all(fields == client.asked[1][1] for op, fields in client.asked if op == "commit")
    headers = await made.async_post_call_response_headers_hook(data, None, None)
    assert headers == {"x-credits-remaining": "0.993", "x-cost-incurred": "0.007"}
    assert caplog.text == ""


async def test_a_charge_that_cannot_be_made_is_logged_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    conflict = Answer(409, {"error": {"code": "CONFLICT"}})
    client = Scripted(Answer(200, OPEN), conflict)
    data = request()
    made = await admit(client, data)
    answer = {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    await made.async_post_call_success_hook(data, None, answer)
    for figure in ("not charged", "409 CONFLICT", "'acme'", "'r-1'", "'completion_tokens': 4"):
        assert figure in caplog.text


@pytest.mark.parametrize(
    "refusals", [["UNPRICED_MODEL", "UNPRICED_MODEL"], ["INVALID_REQUEST"]], ids=str
)
async def test_what_cannot_be_priced_costs_what_was_held(refusals: list[str]) -> None:
    said = [Answer(400, {"error": {"code": code}}) for code in refusals]
    client = Scripted(Answer(200, OPEN), *said, Answer(200, DONE))
    data = request()
    made = await admit(client, data)
    await made.async_post_call_success_hook(data, None, {"usage": {"prompt_tokens": 3}})
    last = client.asked[-1][1]
    assert last["amount_millicredits"] == 50
    assert "model" not in last


CHOICES = [SimpleNamespace(message=SimpleNamespace(content="four" * 100))]


@pytest.mark.parametrize(
    "told",
    [
        None,
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": None, "completion_tokens": 5},
        {"prompt_tokens": 9, "completion_tokens": 0},
        {"prompt_tokens": "9", "completion_tokens": "5"},
        {"total_tokens": 14},
    ],
)
async def test_a_usage_that_cannot_be_read_is_estimated(told: dict[str, Any] | None) -> None:
    """LiteLLM fills in zeros where a provider told nothing; that is no answer for nothing."""
    client = Scripted(Answer(200, OPEN), Answer(200, DONE))
    data = {**request(), "messages": [{"role": "user", "content": "x" * 400}]}
    made = await admit(client, data)
    answer = SimpleNamespace(choices=CHOICES, usage=told)
    await made.async_post_call_success_hook(data, None, answer)
    assert client.ops() == ["reserve"]
    await made.async_log_success_event(data, answer, None, None)
    tokens = client.asked[1][1]["tokens"]
    assert (tokens["prompt_tokens"] >= 100, tokens["completion_tokens"]) == (True, 100)
    assert client.asked[1][1]["usage"]["metadata"]["estimated"] is True


async def test_an_embedding_delivers_no_output() -> None:
    client = Scripted(Answer(200, OPEN), Answer(200, DONE))
    data = request()
    made = await admit(client, data)
    answer = {"usage": {"prompt_tokens": 3, "total_tokens": 3}}
    await made.async_post_call_success_hook(data, None, answer)
    assert client.asked[1][1]["tokens"]["prompt_tokens"] == 3


async def test_an_answer_from_the_cache_costs_nothing() -> None:
    client = Scripted(Answer(200, OPEN), Answer(200, {**DONE, "charged_millicredits": 0}))
    data = request()
    made = await admit(client, data)
    answer = {"usage": {"prompt_tokens": 3}, "_hidden_params": {"cache_hit": True}}
    await made.async_post_call_success_hook(data, None, answer)
    assert client.asked[1][1]["amount_millicredits"] == 0
    assert client.asked[1][1]["usage"]["metadata"]["cache_hit"] is True
