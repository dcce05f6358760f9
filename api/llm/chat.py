"""The body of a chat completion: what we must know of it, and what is sent upstream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taximeter.api.errors import ApiError

N_MAX = 128
OUTPUT_TOKENS_MAX = 10_000_000
MODEL_CHARACTERS_MAX = 200
LABEL_CHARACTERS_MAX = 64

# The upstream and its key are the operator's: a caller who could name another one would be sent our
# key.
_ROUTING_FIELDS = ("api_base", "base_url", "api_key", "api_version", "organization", "user_config")


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


# One of each for all requests: json.loads and json.dumps with options make new ones every time.
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked request. `body` goes upstream; `wants_usage` is whether the caller asked for the
    usage chunk.
    """

    model: str
    body: Mapping[str, Any]
    stream: bool
    wants_usage: bool
    n: int
    output_tokens_limit: int | None
    service_tier: str | None
    power_level: str | None
    task_type: str | None

    def encoded(self) -> bytes:
        """The body as it goes upstream: parsed and written anew, so that both sides read the same
        values.
        """
        return _encode(self.body).encode()


def parse_chat(content: bytes) -> ChatRequest:
    """Check an OpenAI chat body. Raises ApiError 422 that names the field and its limit."""
    body = _parse_object(content)
    for name in _ROUTING_FIELDS:
        if name in body:
            raise _invalid(name, "is decided by the operator and cannot be sent")
    model = body.get("model")
    if not isinstance(model, str) or not 1 <= len(model) <= MODEL_CHARACTERS_MAX:
        raise _invalid("model", f"must be text of 1 to {MODEL_CHARACTERS_MAX} characters")
    if not (model.isascii() and model.isprintable()):
        # The name travels with the charge, whose record has a limit in bytes.
        raise _invalid("model", "must be printable ASCII")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _invalid("messages", "must be a list of at least one message")
    if not all(isinstance(message, dict) for message in messages):
        raise _invalid("messages", "must be a list of objects")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _invalid("stream", "must be true or false")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _invalid("stream_options", "must be an object")
    wants_usage = bool(stream and options and options.get("include_usage") is True)
    tier = body.get("service_tier")
    if tier is not None and (not isinstance(tier, str) or len(tier) > LABEL_CHARACTERS_MAX):
        raise _invalid("service_tier", f"must be text of at most {LABEL_CHARACTERS_MAX} characters")
    # These two describe the request to us; an upstream would refuse them as unknown.
    power_level, task_type = _label(body, "power_level"), _label(body, "task_type")
    upstream = {
        key: value for key, value in body.items() if key not in ("power_level", "task_type")
    }
    if stream:
        # Without the usage chunk a stream could only be charged by counting what passed.
        upstream["stream_options"] = {**(options or {}), "include_usage": True}
    return ChatRequest(
        model=model,
        body=upstream,
        stream=bool(stream),
        wants_usage=wants_usage,
        n=_count(body, "n", N_MAX) or 1,
        output_tokens_limit=_count(body, "max_completion_tokens", OUTPUT_TOKENS_MAX)
        or _count(body, "max_tokens", OUTPUT_TOKENS_MAX),
        service_tier=tier,
        power_level=power_level,
        task_type=task_type,
    )


def _parse_object(content: bytes) -> dict[str, Any]:
    try:
        body = _decode(content.decode(json.detect_encoding(content), "surrogatepass"))
    except RecursionError:
        raise _invalid("body", "is nested too deeply") from None
    except ValueError as error:
        raise _invalid("body", f"is not valid JSON: {str(error)[:100]}") from None
    if not isinstance(body, dict):
        raise _invalid("body", "must be a JSON object")
    return body


def _count(body: Mapping[str, Any], name: str, highest: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        raise _invalid(name, f"must be a whole number from 1 to {highest}")
    return value


def _label(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or len(value) > LABEL_CHARACTERS_MAX
        or not (value.isascii() and value.isprintable())
    ):
        raise _invalid(name, f"must be printable ASCII, at most {LABEL_CHARACTERS_MAX} characters")
    return value


def _invalid(field: str, limit: str) -> ApiError:
    return ApiError(
        422, f"{field}: {limit}", details={"fields": [{"field": field, "message": limit}]}
    )
