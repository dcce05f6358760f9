"""Answers like OpenAI's API, from nothing but the request: a simulated LLM provider, plainly
labelled as one.

The same request always gets the same answer. How it behaves comes from settings, and for a single
request from a `simulate` object in its body: `{"simulate": {"latency_s": 0.5, "status": 500,
"break_after": 3, "usage": false}}`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from taximeter.api.simulator.answers import CREATED, Completion, Simulate
from taximeter.api.simulator.surfaces import (
    WHOLE,
    ResponsesAnswer,
    TextCompletion,
    Wrong,
    multipart,
    speech,
    transcription,
)

MODELS = ("gpt-3.5-turbo", "gpt-4o", "gpt-4o-mini")
OTHER_MODELS = (
    *("gpt-3.5-turbo-instruct", "gpt-4o-audio-preview", "gpt-image-1", "omni-moderation-latest"),
    *("text-embedding-3-large", "text-embedding-3-small", "tts-1", "whisper-1"),
)
"""Those of the other routes, whose answers do not depend on the model."""
LABEL_HEADERS = {"X-Simulated-Provider": "true"}
N_MAX = 128


class SimulatorSettings(BaseSettings):
    """How the simulated provider behaves, from variables with the prefix TAXIMETER_SIMULATOR_."""

    model_config = SettingsConfigDict(env_prefix="TAXIMETER_SIMULATOR_", extra="ignore")

    latency_s: float = Field(
        default=0.0, ge=0.0, le=600.0, description="Wait before the first byte of every answer."
    )
    chunk_delay_s: float = Field(
        default=0.0, ge=0.0, le=60.0, description="Wait before each chunk of a stream."
    )
    failure_rate: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Part of the requests that fail with status 500."
    )
    break_rate: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Part of the streams that break off in the middle."
    )


def _error(status: int, message: str, kind: str = "invalid_request_error") -> JSONResponse:
    content = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(content, status, LABEL_HEADERS)


def _check_model(model: object) -> str | None:
    if model in (*MODELS, *OTHER_MODELS):
        return None
    return f"The model `{model}` does not exist here; there are {', '.join(MODELS)}."


def _check(body: object) -> str | None:
    """What is wrong with a body, or None."""
    if not isinstance(body, dict):
        return "The body must be a JSON object."
    if (wrong := _check_model(body.get("model"))) is not None:
        return wrong
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "'messages' must be a list of at least one message."
    if not all(isinstance(message, dict) for message in messages):
        return "'messages' must be a list of objects."
    for name, most in (("n", N_MAX), ("max_tokens", 10**9), ("max_completion_tokens", 10**9)):
        value = body.get(name)
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            return f"'{name}' must be a whole number from 1 to {most}."
    return None


def create_simulator(settings: SimulatorSettings | None = None) -> Starlette:
    """The provider as an ASGI application. It checks no key. `app.state.requests` counts
    those for answers.
    """
    settings = settings or SimulatorSettings()
    chance = random.Random(0)

    async def models(_: Request) -> Response:
        listed = [
            {"id": model, "object": "model", "created": CREATED, "owned_by": "simulated"}
            for model in (*MODELS, *OTHER_MODELS)
        ]
        return JSONResponse({"object": "list", "data": listed}, headers=LABEL_HEADERS)

    async def begin(request: Request) -> tuple[dict[str, Any], Simulate] | Response:
        """A body with what it asks of the simulator, after its latency, or the answer if it ends
        there.
        """
        request.app.state.requests += 1
        try:
            body = await request.json()
        except (ValueError, RecursionError):
            return _error(400, "The body is not valid JSON.")
        if isinstance(body, dict) and request.url.path.endswith("/moderations"):
            body.setdefault("model", "omni-moderation-latest")  # As OpenAI does.
        wrong = _check(body) if request.url.path.endswith("/chat/completions") else None
        if wrong is None:
            wrong = _check_model(body.get("model") if isinstance(body, dict) else None)
        if wrong is not None:
            return _error(404 if "does not exist" in wrong else 400, wrong)
        try:
            simulate = Simulate.model_validate(body.get("simulate") or {})
        except ValidationError as error:
            return _error(400, f"'simulate' is not valid: {error.errors()[0]['msg']}")
        latency = settings.latency_s if simulate.latency_s is None else simulate.latency_s
        if latency:
            await asyncio.sleep(latency)
        if simulate.status is not None:
            return _error(simulate.status, "Simulated failure.", "simulated_failure")
        if chance.random() < settings.failure_rate:
            return _error(500, "Simulated failure.", "simulated_failure")
        return body, simulate

    def delay_of(simulate: Simulate) -> float:
        return settings.chunk_delay_s if simulate.chunk_delay_s is None else simulate.chunk_delay_s

    def streamed(chunks: AsyncIterator[bytes]) -> Response:
        headers = {**LABEL_HEADERS, "Cache-Control": "no-cache"}
        return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)

    async def complete(request: Request) -> Response:
        begun = await begin(request)
        if isinstance(begun, Response):
            return begun
        body, simulate = begun
        completion = Completion(body, simulate)
        if not body.get("stream"):
            return JSONResponse(completion.answer(), headers=LABEL_HEADERS)
        break_after = simulate.break_after
        if break_after is None and chance.random() < settings.break_rate:
            break_after = completion.tokens // 2
        return streamed(completion.chunks(delay_of(simulate), break_after))

    async def other(request: Request) -> Response:
        """The routes that answer whole, and the two that stream besides chats."""
        begun = await begin(request)
        if isinstance(begun, Response):
            return begun
        body, simulate = begun
        path = request.url.path.removeprefix("/v1/")
        try:
            if path == "audio/speech":
                return Response(speech(body), media_type="audio/wav", headers=LABEL_HEADERS)
            if path in WHOLE:
                return JSONResponse(WHOLE[path](body), headers=LABEL_HEADERS)
            kind = TextCompletion if path == "completions" else ResponsesAnswer
            answer = kind(body, simulate)
        except Wrong as error:
            return _error(400, str(error))
        if body.get("stream"):
            return streamed(answer.chunks(delay_of(simulate)))
        return JSONResponse(answer.answer(), headers=LABEL_HEADERS)

    async def transcribe(request: Request) -> Response:
        request.app.state.requests += 1
        content, fields = multipart(request.headers.get("content-type", ""), await request.body())
        if (wrong := _check_model(fields.get("model"))) is not None:
            return _error(404, wrong)
        try:
            said = transcription(content, fields)
        except Wrong as error:
            return _error(400, str(error))
        if isinstance(said, str):
            return Response(said, media_type="text/plain", headers=LABEL_HEADERS)
        return JSONResponse(said, headers=LABEL_HEADERS)

    posts = {
        "chat/completions": complete,
        **dict.fromkeys((*WHOLE, "completions", "responses", "audio/speech"), other),
        **dict.fromkeys(("audio/transcriptions", "audio/translations"), transcribe),
    }
    app = Starlette(
        routes=[
            Route("/v1/models", models, methods=["GET"]),
            *(Route(f"/v1/{path}", one, methods=["POST"]) for path, one in posts.items()),
        ]
    )
    app.state.requests = 0
    return app
