"""Reads the settings of the LiteLLM logger: environment variables of the LiteLLM process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Self

from taximeter.meter.litellm.payer import check_sources
from taximeter.meter.wire.errors import InvalidRequest

_PREFIX = "TAXIMETER_LITELLM_"
_SHARED = {"sidecar_url": "TAXIMETER_SIDECAR_URL", "sidecar_key": "TAXIMETER_SIDECAR_KEY"}
_BOUNDS = {
    "hold_s": (1, 86_400),
    "output_tokens": (1, 10**7),
    "output_tokens_max": (1, 10**7),
    "timeout_s": (0.05, 60),
    "settle_s": (1, 86_400),
}


@dataclass(frozen=True, slots=True)
class LiteLLMSettings:
    """What an operator can decide about the logger. Every number has a bound."""

    sidecar_url: str = "http://127.0.0.1:8086"
    """The sidecar: `http://host:port`, or `unix:///path/of/its.sock`."""
    sidecar_key: str = field(default="", repr=False)
    """Its API key, when it wants one."""
    org: str = "key.metadata.org_id, team.metadata.org_id, key.org_id, key.team_id"
    """Where the organisation that pays is read; the first that is there counts."""
    user: str = "key.metadata.user_id, key.user_id"
    """Where the user that pays is read."""
    hold_s: float = 300.0
    """Life of a hold without a heartbeat; a stream gives one every third of it."""
    output_tokens: int = 4096
    """Output tokens to hold for when the caller sets no limit."""
    output_tokens_max: int = 16_384
    """Most output tokens to hold for, whatever limit the caller sets. The charge is the actual
    use.
    """
    timeout_s: float = 3.0
    """How long one call of the sidecar may take."""
    settle_s: float = 300.0
    """How long a charge is tried again while the sidecar does not answer."""
    free_calls: str = ""
    """Further LiteLLM call types, comma separated, that pass without a charge."""

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise InvalidRequest(_variable(name), f"a number from {low} to {high}")
        if not self.sidecar_url.startswith(("http://", "https://", "unix:///")):
            raise InvalidRequest(_variable("sidecar_url"), "http://, https:// or unix:///")
        for name in ("org", "user"):
            check_sources(getattr(self, name), _variable(name))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read them. Raises InvalidRequest naming the variable."""
        given: dict[str, str | int | float] = {}
        for each in fields(cls):
            variable = _variable(each.name)
            text = environment.get(variable, "")
            if not text:
                continue
            kind: type[str | int | float] = type(getattr(cls(), each.name))
            try:
                given[each.name] = kind(text)
            except ValueError:
                raise InvalidRequest(variable, f"a number, not {text[:32]!r}") from None
        return cls(**given)  # type: ignore[arg-type]  # Each has the type of its default.


def _variable(name: str) -> str:
    return _SHARED.get(name) or f"{_PREFIX}{name.upper()}"
