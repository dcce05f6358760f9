"""Holds a checked request: what we must know of its body, and the body that is sent upstream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from taximeter.api.openai.json_members import JsonObject

if TYPE_CHECKING:
    from taximeter.api.openai.surfaces import Surface


_EMPTY = JsonObject("", {}, {})


@dataclass(slots=True)
class LlmRequest:
    """A checked request. `body` is what the caller sent, `prompt` what is paid for in it as input;
    `wants_usage` is whether the caller asked for the usage of a stream.
    """

    surface: Surface
    model: str
    body: Mapping[str, Any]
    prompt: Mapping[str, Any]
    stream: bool
    wants_usage: bool
    n: int
    inputs: int
    output_tokens_limit: int | None
    service_tier: str | None
    power_level: str | None
    task_type: str | None
    tag: str | None
    _content: bytes | None
    _source: JsonObject
    _changes: Mapping[str, object]
    _limit: int | None = field(default=None, init=False)
    _is_gone: bool = field(default=False, init=False)

    def limit_output(self, tokens: int | None) -> None:
        """Send a limit of output with the request, whose caller set none; None sends none."""
        self._limit = tokens

    def forget_body(self) -> None:
        """Let the body go, which is most of the memory of a request: once it was sent, nobody needs
        it any more.
        """
        self.body = self.prompt = {}
        self._content, self._source, self._is_gone = None, _EMPTY, True

    def encoded(self, model: str, chat_limit_field: str = "") -> bytes:
        """The body as it goes upstream, where the model has this name and chats this field for
        their limit of output (none if it is empty): what we do not change in it keeps every byte.
        """
        assert not self._is_gone, "a body is sent before it is forgotten"
        changes = self._changes
        if model != self.model:
            changes = {**changes, "model": model}
        if self._limit is not None:
            limits = self.surface.limits
            name = chat_limit_field if len(limits) > 1 else limits[0]
            if name:
                changes = {**changes, name: self._limit}
        if not changes and self._content is not None:
            return self._content
        return self._source.text(changes).encode("utf-8", "surrogatepass")
