"""Lists the routes of OpenAI's API that are served, and how each differs: where its prompt is, how
many answers it gives, what its usage is called, and when its stream has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taximeter.api.openai import fields
from taximeter.api.openai.checks import count, invalid
from taximeter.api.openai.output import NO_OUTPUT, EventOutput, Output, chat_event_output, output_of

ANSWERS_MAX = 128
INPUTS_MAX = 2048
IMAGES_MAX = 10


class Surface:
    """One route. This is the one of chat completions; the others say what is different."""

    path = "/chat/completions"
    fields = fields.CHAT
    can_stream = True
    # Whether usage in a stream must be asked for with `stream_options`.
    asks_for_usage = True
    # Fields that limit the output tokens of one answer. Which of them a provider obeys is its own
    # affair, so the largest counts.
    limits: tuple[str, ...] = ("max_completion_tokens", "max_tokens")
    # Output tokens of one answer, where they do not depend on what the caller allows.
    fixed_output: int | None = None
    makes_images = False
    chunk_kind = "chat.completion.chunk"

    def check(self, body: Mapping[str, Any]) -> None:
        """Raises ApiError 422 for a body that cannot be priced or must not be sent."""
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise invalid("messages", "must be a list of at least one message")
        if not all(isinstance(message, dict) for message in messages):
            raise invalid("messages", "must be a list of objects")
        fields.check_tools(body)

    def prompt(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is paid for as input, in the shape of a chat."""
        return body

    def inputs(self, body: Mapping[str, Any]) -> int:
        """How many prompts there are, each of which can be as long as the model reads."""
        return 1

    def answers(self, body: Mapping[str, Any]) -> int:
        """How many answers the caller asks for. Raises ApiError 422."""
        return count(body, "n", ANSWERS_MAX) or 1

    def usage(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The usage of an answer or of an event, in the words of chat completions."""
        usage = document.get("usage")
        return usage if isinstance(usage, dict) else None

    def output(self, document: Mapping[str, Any]) -> Output:
        """What a whole answer brings, counted: for an upstream that reports none."""
        return output_of(document)

    def images(self, document: Mapping[str, Any]) -> int:
        """How many images an answer brings, for models that are sold by the image."""
        return 0

    def is_answer(self, document: Mapping[str, Any]) -> bool:
        """Whether there is anything of what was asked for in a whole answer: some gateways say with
        status 200 that they have failed.
        """
        return bool(_choices(document))

    def event_output(self, document: Mapping[str, Any]) -> EventOutput:
        """What an event brings."""
        return chat_event_output(document)

    def is_usage_event(self, document: Mapping[str, Any]) -> bool:
        """Whether an event with usage brings nothing else, and waits for the charge."""
        return not document.get("choices")

    def with_cost(self, document: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, Any]:
        """The event that tells the usage, with what it cost."""
        return {**document, "choices": [], "usage": {**document["usage"], **cost}}

    def usage_chunk(self, model: str, usage: Mapping[str, Any]) -> dict[str, Any]:
        """An event of our own with the usage that was counted, for an upstream that told none."""
        return {
            "object": self.chunk_kind,
            "created": 0,
            "model": model,
            "choices": [],
            "usage": {**usage},
        }

    def is_failure(self, document: Mapping[str, Any]) -> bool:
        """Whether an event says that the upstream has given up."""
        return document.get("error") is not None


class Completions(Surface):
    """The older route of plain text."""

    path = "/completions"
    fields = fields.COMPLETIONS
    chunk_kind = "text_completion"
    limits = ("max_tokens",)

    def check(self, body: Mapping[str, Any]) -> None:
        _check_texts(body, "prompt")

    def prompt(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return as_chat(body["prompt"], body.get("suffix"))

    def answers(self, body: Mapping[str, Any]) -> int:
        """Each of several prompts gets its own answers, and the ones that `best_of` drops are paid
        for too.
        """
        most = max(count(body, "n", ANSWERS_MAX) or 1, count(body, "best_of", ANSWERS_MAX) or 1)
        return self.inputs(body) * most

    def inputs(self, body: Mapping[str, Any]) -> int:
        return _inputs(body["prompt"])


class Embeddings(Surface):
    """Paid by input alone."""

    path = "/embeddings"
    fields = fields.EMBEDDINGS
    can_stream = False
    fixed_output = 0

    def check(self, body: Mapping[str, Any]) -> None:
        _check_texts(body, "input")

    def prompt(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return as_chat(body["input"])

    def inputs(self, body: Mapping[str, Any]) -> int:
        return _inputs(body["input"])

    def answers(self, body: Mapping[str, Any]) -> int:
        return 1

    def is_answer(self, document: Mapping[str, Any]) -> bool:
        return bool(document.get("data"))

    def output(self, document: Mapping[str, Any]) -> Output:
        return NO_OUTPUT


class Images(Surface):
    """Paid by usage where the upstream reports it, else by the number of images that came."""

    path = "/images/generations"
    fields = fields.IMAGES
    can_stream = False
    fixed_output = 0
    makes_images = True

    def check(self, body: Mapping[str, Any]) -> None:
        if not isinstance(body.get("prompt"), str):
            raise invalid("prompt", "must be text")

    def prompt(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return as_chat(body["prompt"])

    def answers(self, body: Mapping[str, Any]) -> int:
        return count(body, "n", IMAGES_MAX) or 1

    def usage(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        usage = super().usage(document)
        if usage is None:
            return None
        if usage.get("output_tokens_details") is None:
            images = {"image_tokens": usage.get("output_tokens")}
            usage = {**usage, "output_tokens_details": images}
        return in_chat_words(usage)

    def is_answer(self, document: Mapping[str, Any]) -> bool:
        return bool(document.get("data"))

    def output(self, document: Mapping[str, Any]) -> Output:
        return NO_OUTPUT

    def images(self, document: Mapping[str, Any]) -> int:
        images = document.get("data")
        return len(images) if isinstance(images, list) else 0


def as_chat(*parts: object) -> dict[str, Any]:
    """Any input as one message of a chat, which is what prompts are measured as."""
    return {"messages": [{"content": part} for part in parts if part is not None]}


def in_chat_words(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Usage that counts input and output, in the words of chat completions."""
    return {
        "prompt_tokens": usage.get("input_tokens"),
        "completion_tokens": usage.get("output_tokens"),
        "prompt_tokens_details": usage.get("input_tokens_details"),
        "completion_tokens_details": usage.get("output_tokens_details"),
    }


def _inputs(value: object) -> int:
    return len(value) if isinstance(value, list) and type(value[0]) is not int else 1


def _choices(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = document.get("choices")
    if not isinstance(choices, list):
        return []
    return [choice for choice in choices if isinstance(choice, dict)]


def _check_texts(body: Mapping[str, Any], name: str) -> None:
    """Text, tokens, or a list of either: what OpenAI takes as input."""
    value = body.get(name)
    if isinstance(value, str):
        return
    if not isinstance(value, list) or not value:
        raise invalid(name, "must be text, tokens, or a list of either")
    kind = type(value[0])
    if kind not in (str, int, list) or not all(type(part) is kind for part in value):
        raise invalid(name, "must be text, tokens, or a list of either")
    if kind is not int and len(value) > INPUTS_MAX:
        raise invalid(name, f"must have at most {INPUTS_MAX} entries")
