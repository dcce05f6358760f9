"""Checks the body of a request and finds what must be known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taximeter.api.openai.checks import LABEL_CHARACTERS_MAX, count, invalid, label
from taximeter.api.openai.fields import OWN, check_fields
from taximeter.api.openai.json_members import NotAnObject, parse_object
from taximeter.api.openai.request import LlmRequest
from taximeter.api.openai.responses import Responses
from taximeter.api.openai.surfaces import Completions, Embeddings, Images, Surface

OUTPUT_TOKENS_MAX = 10_000_000
MODEL_CHARACTERS_MAX = 200

SURFACES: tuple[Surface, ...] = (Surface(), Completions(), Embeddings(), Images(), Responses())


def parse_request(
    content: bytes, surface: Surface, extra_fields: frozenset[str] = frozenset()
) -> LlmRequest:
    """Check a body of OpenAI's shape, which may have these fields besides the known ones. Raises
    ApiError 422 that names the field and its limit.
    """
    try:
        # Other encodings were not counted as they came, and RFC 8259 knows none.
        source = parse_object(content.decode())
    except ValueError as error:
        reason = str(error) if isinstance(error, NotAnObject) else f"not valid JSON: {error}"
        raise invalid("body", reason[:200]) from None
    body = source.values
    check_fields(body, surface.fields, extra_fields)
    model = body.get("model")
    if not isinstance(model, str) or not 1 <= len(model) <= MODEL_CHARACTERS_MAX:
        raise invalid("model", f"must be text of 1 to {MODEL_CHARACTERS_MAX} characters")
    if not (model.isascii() and model.isprintable()):
        # The name travels with the charge, whose record has a limit in bytes.
        raise invalid("model", "must be printable ASCII")
    surface.check(body)
    stream, options = _streaming(body, surface)
    tier = body.get("service_tier")
    if tier is not None and (not isinstance(tier, str) or len(tier) > LABEL_CHARACTERS_MAX):
        raise invalid("service_tier", f"must be text of at most {LABEL_CHARACTERS_MAX} characters")
    power_level, task_type = label(body, "power_level"), label(body, "task_type")
    tag = label(body, "tag") or None
    changes: dict[str, object] = {name: None for name in OWN if name in body}
    if stream and surface.asks_for_usage:
        # Without the usage chunk a stream could only be charged by counting what passed. It is
        # written anew also if it was asked for: two parsers may read a name that stands twice
        # inside it differently.
        changes["stream_options"] = {**options, "include_usage": True}
    limits = [
        limit
        for name in surface.limits
        if (limit := count(body, name, OUTPUT_TOKENS_MAX)) is not None
    ]
    return LlmRequest(
        surface=surface,
        model=model,
        body=body,
        prompt=surface.prompt(body),
        stream=stream,
        wants_usage=not surface.asks_for_usage or options.get("include_usage") is True,
        n=surface.answers(body),
        inputs=surface.inputs(body),
        output_tokens_limit=max(limits, default=None),
        service_tier=tier,
        power_level=power_level,
        task_type=task_type,
        tag=tag,
        _content=content,
        _source=source,
        _changes=changes,
    )


def _streaming(body: Mapping[str, Any], surface: Surface) -> tuple[bool, Mapping[str, Any]]:
    """Whether a stream is asked for, and its options. Raises ApiError 422."""
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise invalid("stream", "must be true or false")
    if stream and not surface.can_stream:
        raise invalid("stream", f"is not served at {surface.path}")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise invalid("stream_options", "must be an object")
    return bool(stream), options or {}
