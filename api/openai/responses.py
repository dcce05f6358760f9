"""Speaks OpenAI's responses route: usage in other words, a stream of named events, and what cannot
be served because it could not be metered or would not be the caller's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taximeter.api.openai import fields
from taximeter.api.openai.checks import invalid
from taximeter.api.openai.output import EventOutput, Output, output_of
from taximeter.api.openai.surfaces import Surface, as_chat, in_chat_words

# These would be taken from the provider's account, where the callers of all organisations are one.
_KEPT_AT_PROVIDER = ("previous_response_id", "conversation", "prompt")
# These say again, or only that there will be something.
_REPEATED = (".done", ".added", ".created", ".queued", ".in_progress")
_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")


class Responses(Surface):
    """Usage always comes, with the last event of a stream or in the answer."""

    path = "/responses"
    fields = fields.RESPONSES
    asks_for_usage = False
    limits = ("max_output_tokens",)

    def check(self, body: Mapping[str, Any]) -> None:
        text = body.get("input")
        if not isinstance(text, str | list) or not text:
            raise invalid("input", "must be text or a list of items")
        for name in _KEPT_AT_PROVIDER:
            if body.get(name) is not None:
                raise invalid(name, "is kept at the provider and not served; send the whole input")
        if body.get("background"):
            raise invalid("background", "is not served: its usage would come after the answer")
        fields.check_tools(body)

    def prompt(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        chat = as_chat(body["input"], body.get("instructions"), body.get("text"))
        return {**chat, "tools": body["tools"]} if body.get("tools") else chat

    def answers(self, body: Mapping[str, Any]) -> int:
        return 1

    def usage(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Of an answer, or of the answer inside the last event of a stream."""
        usage = _answer_of(document).get("usage")
        return in_chat_words(usage) if isinstance(usage, dict) else None

    def output(self, document: Mapping[str, Any]) -> Output:
        return output_of(document.get("output"))

    def is_answer(self, document: Mapping[str, Any]) -> bool:
        return bool(document.get("output"))

    def event_output(self, document: Mapping[str, Any]) -> EventOutput:
        """Pieces count as they come, whatever they are called; items and the last event, which
        repeat them, as a whole.
        """
        kind = document.get("type")
        if not isinstance(kind, str):
            return EventOutput(output_of(document))
        if kind in _LAST_EVENTS:
            return EventOutput(ended=("0",))
        if kind == "response.output_item.done":
            return EventOutput(whole=output_of(document.get("item")))
        if kind.endswith(_REPEATED):
            return EventOutput()
        return EventOutput(
            output_of(document, is_audio="audio" in kind and "transcript" not in kind)
        )

    def is_usage_event(self, document: Mapping[str, Any]) -> bool:
        return document.get("type") in _LAST_EVENTS

    def with_cost(self, document: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, Any]:
        answer = document["response"]
        return {**document, "response": {**answer, "usage": {**answer["usage"], **cost}}}

    def is_failure(self, document: Mapping[str, Any]) -> bool:
        return document.get("type") == "error"


def _answer_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = document.get("response")
    return inner if isinstance(inner, dict) else document
