"""OpenAI's responses route: usage in other words, a stream of named events, and what cannot be
served because it could not be metered or would not be the caller's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taximeter.api.llm.checks import invalid
from taximeter.api.llm.estimates import output_guess
from taximeter.api.llm.surfaces import Surface, as_chat, in_chat_words

# These would be taken from the provider's account, where the callers of all organisations are one.
_KEPT_AT_PROVIDER = ("previous_response_id", "conversation", "prompt")
# Other tools run at the provider and have prices of their own, which no usage tells.
_METERED_TOOLS = ("function", "custom")
_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")


class Responses(Surface):
    """Usage always comes, with the last event of a stream or in the answer."""

    path = "/responses"
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
        tools = body.get("tools")
        if tools is None:
            return
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise invalid("tools", "must be a list of objects")
        for tool in tools:
            if tool.get("type") not in _METERED_TOOLS:
                raise invalid(
                    "tools", f"only those of type {' or '.join(_METERED_TOOLS)} are served"
                )

    def prompt(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        chat = as_chat(body["input"], body.get("instructions"), body.get("text"))
        return {**chat, "tools": body["tools"]} if body.get("tools") else chat

    def answers(self, body: Mapping[str, Any]) -> int:
        return 1

    def usage(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Of an answer, or of the answer inside the last event of a stream."""
        usage = _answer_of(document).get("usage")
        return in_chat_words(usage) if isinstance(usage, dict) else None

    def output(self, document: Mapping[str, Any]) -> int:
        """All text inside the items of the output, whatever their kind."""
        tokens = 0
        waiting: list[Any] = [document.get("output")]
        while waiting:
            value = waiting.pop()
            if isinstance(value, list):
                waiting.extend(value)
            elif isinstance(value, dict):
                for name, part in value.items():
                    if isinstance(part, str):
                        shown = name in ("text", "refusal", "arguments", "input", "name")
                        tokens += output_guess(part) if shown else 0
                    else:
                        waiting.append(part)
        return tokens

    def is_answer(self, document: Mapping[str, Any]) -> bool:
        return bool(document.get("output"))

    def step(self, document: Mapping[str, Any]) -> tuple[int, list[str]]:
        kind, delta = document.get("type"), document.get("delta")
        if isinstance(kind, str) and kind.endswith(".delta") and isinstance(delta, str):
            return output_guess(delta), []
        return 0, ["0"] if kind in _LAST_EVENTS else []

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
