"""Counts the output of an answer by what is in it and not by the provider's word, for answers that
end without a usage.

Everything counts that is not known to be part of the envelope, in whatever field a provider puts
it: a list of the fields that count would be a list of those that do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

BYTES_PER_TOKEN: Final = 4
ONE_TOKEN_BYTES_MAX: Final = 16
IMAGE_TOKENS: Final = 1_300
"""Of an image inside a chat, where the models that make them report about so many."""
AUDIO_BYTES_PER_TOKEN: Final = 2_400
"""Sound is streamed as 24,000 samples of two bytes a second, and counted as 20 tokens a second."""

# Names whose text nobody pays for: who, what and when an answer is, and checks beside it.
_ENVELOPE = frozenset(
    (
        *("id", "object", "created", "created_at", "expires_at", "completed_at", "model"),
        *("system_fingerprint", "service_tier", "usage", "provider", "native_finish_reason"),
        *("index", "role", "type", "status", "finish_reason", "stop_reason", "done_reason"),
        *("logprobs", "obfuscation", "signature", "format", "mime_type", "detail", "error"),
        *("call_id", "item_id", "event_id", "response_id", "tool_call_id", "output_index"),
        *("content_index", "summary_index", "sequence_number", "annotations", "citations"),
        *("metadata", "x_groq", "time_info", "timings", "prompt_filter_results", "event"),
        *("content_filter_results", "content_filter_offsets", "prompt_logprobs"),
        *("prompt_token_ids", "token_ids"),
    )
)
_PLAIN_CHUNK = frozenset(
    (
        *("id", "object", "created", "model", "system_fingerprint", "service_tier", "usage"),
        *("choices", "obfuscation"),
    )
)
_PLAIN_CHOICE = frozenset(("index", "delta", "finish_reason", "logprobs"))


class Output(NamedTuple):
    """Tokens that were made, by what they are. `audio_bytes` waits to be divided at the end."""

    text: int = 0
    images: int = 0
    audio_bytes: int = 0

    def plus(self, other: Output) -> Output:
        """Both together."""
        return Output(
            self.text + other.text,
            self.images + other.images,
            self.audio_bytes + other.audio_bytes,
        )

    @property
    def audio(self) -> int:
        """Tokens of its audio, rounded up."""
        return -(-self.audio_bytes // AUDIO_BYTES_PER_TOKEN)

    @property
    def tokens(self) -> int:
        """All of it in tokens."""
        return self.text + self.images * IMAGE_TOKENS + self.audio


NO_OUTPUT: Final = Output()


class EventOutput(NamedTuple):
    """What one event brings: what is new (`streamed`), what may repeat that as a whole, and which
    of the answers are complete with it.
    """

    streamed: Output = NO_OUTPUT
    whole: Output = NO_OUTPUT
    ended: tuple[str, ...] = ()


class CountedOutput:
    """Adds up the events of a stream. Some providers repeat at the end what they have
    streamed, and some send only that: the larger of the two was made.
    """

    def __init__(self) -> None:
        self._streamed = self._whole = NO_OUTPUT

    def add(self, step: EventOutput) -> None:
        """One more event."""
        if step.streamed != NO_OUTPUT:
            self._streamed = self._streamed.plus(step.streamed)
        if step.whole != NO_OUTPUT:
            self._whole = self._whole.plus(step.whole)

    @property
    def made(self) -> Output:
        """What was made: as streamed or as told at the end, whichever is more."""
        return max(self._streamed, self._whole, key=lambda made: made.tokens)


def tokens_guessed(text: str) -> int:
    """Tokens of one piece of streamed output. Upstreams send a token at a time; larger pieces go by
    their bytes.
    """
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size == 0:
        return 0
    return 1 if size <= ONE_TOKEN_BYTES_MAX else -(-size // BYTES_PER_TOKEN)


def output_of(value: object, *, is_audio: bool = False) -> Output:
    """Everything that is made in any part of an answer. No recursion: the nesting is foreign."""
    text = images = audio_bytes = 0
    waiting: list[tuple[Any, str, bool]] = [(value, "", is_audio)]
    while waiting:
        part, name, within_audio = waiting.pop()
        if isinstance(part, str):
            if name == "b64_json" or name.startswith("partial_image") or _is_image(part, name):
                images += bool(part)
            elif part.startswith("data:audio/") or (within_audio and name in ("data", "delta")):
                audio_bytes += len(part) * 3 // 4
            else:
                text += tokens_guessed(part)
        elif isinstance(part, Mapping):
            kind = part.get("type")
            sounds = within_audio or name == "audio" or (isinstance(kind, str) and "audio" in kind)
            waiting += [(one, key, sounds) for key, one in part.items() if key not in _ENVELOPE]
        elif isinstance(part, list):
            waiting += [(one, name, within_audio) for one in part]
    return Output(text, images, audio_bytes)


def _is_image(text: str, name: str) -> bool:
    return text.startswith("data:image/") or (name in ("url", "image_url") and ":" in text[:8])


def chat_event_output(document: Mapping[str, Any]) -> EventOutput:
    """What an event of a chat or a completion brings."""
    choices = document.get("choices")
    if isinstance(choices, list) and document.keys() <= _PLAIN_CHUNK:
        if not choices:
            return EventOutput()
        if len(choices) == 1 and (step := _plain_step(choices[0])) is not None:
            return step
    listed = [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    whole, ended = NO_OUTPUT, []
    for choice in listed:
        whole = whole.plus(output_of(choice.get("message")))
        if choice.get("finish_reason"):  # Some send an empty one all the time.
            ended.append(str(choice.get("index")))
    return EventOutput(output_of(_without_messages(document, choices)), whole, tuple(ended))


def _plain_step(choice: object) -> EventOutput | None:
    """One token of text, as in nearly every event, in a tenth of the time."""
    if not isinstance(choice, dict) or not choice.keys() <= _PLAIN_CHOICE:
        return None
    delta = choice.get("delta")
    if not isinstance(delta, dict) or not delta.keys() <= {"content", "role", "refusal"}:
        return None
    content, refusal = delta.get("content") or "", delta.get("refusal") or ""
    if not isinstance(content, str) or not isinstance(refusal, str):
        return None
    ended = (str(choice.get("index")),) if choice.get("finish_reason") else ()
    return EventOutput(Output(tokens_guessed(content) + tokens_guessed(refusal)), NO_OUTPUT, ended)


def _without_messages(document: Mapping[str, Any], choices: object) -> Mapping[str, Any]:
    if not isinstance(choices, list):
        return document
    return {**document, "choices": [_without(one, ("message",)) for one in choices]}


def _without(value: object, names: Iterable[str]) -> object:
    if not isinstance(value, dict):
        return value
    return {name: part for name, part in value.items() if name not in names}
