"""A checked request: what we must know of its body, and the body that is sent upstream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taximeter.api.llm.members import JsonObject

if TYPE_CHECKING:
    from taximeter.api.llm.surfaces import Surface


@dataclass(frozen=True, slots=True)
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
    output_tokens_limit: int | None
    service_tier: str | None
    power_level: str | None
    task_type: str | None
    _content: bytes | None
    _source: JsonObject
    _changes: Mapping[str, object]

    def encoded(self, model: str) -> bytes:
        """The body as it goes upstream, where the model has this name: what we do not change in it
        keeps every byte.
        """
        changes = self._changes
        if model != self.model:
            changes = {**changes, "model": model}
        if not changes and self._content is not None:
            return self._content
        return self._source.text(changes).encode("utf-8", "surrogatepass")
