"""Keeps the requests under way in this process, from their hold to their charge."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from taximeter.meter.litellm.deployments import Model
from taximeter.meter.wire.bounded_cache import BoundedCache

CALL_S_MAX: Final = 86_400.0
"""A call that nothing ended for a day is forgotten; its hold ended long before."""
ENDED_MAX: Final = 10_000
"""Ended calls that are remembered, for a later callback of the same request."""

_MARK: Final = "taximeter_call"
_BUCKETS: Final = ("metadata", "litellm_metadata")


@dataclass(slots=True)
class Call:
    """One request with a hold. `available` is the last known balance in millicredits."""

    org_id: str
    user_id: str
    request_id: str
    model: Model
    prompt_guess: int
    reserved: int
    available: int
    about: Mapping[str, object]
    trace: Mapping[str, str] = field(default_factory=dict)
    """Headers that carry its trace to the sidecar."""
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    started_s: float = field(default_factory=time.monotonic)
    touched_s: float = field(default_factory=time.monotonic)
    output_tokens: int = 0
    """Delivered so far, by a stream."""
    cost: int | None = None
    """Millicredits charged, once they are."""
    ended: bool = False

    @property
    def account(self) -> dict[str, object]:
        """The three ids that every operation on the hold takes."""
        return {"org_id": self.org_id, "user_id": self.user_id, "request_id": self.request_id}


class Calls:
    """Finds the call of a callback by a random token in the request's metadata.

    Not by LiteLLM's call id, which is the caller's to choose: a second request with the same id
    must not end the hold of the first. All methods are for one event loop.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, Call] = OrderedDict()
        self._ended: BoundedCache[str, Call] = BoundedCache(ENDED_MAX)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, call: Call, data: dict[str, Any]) -> None:
        """Remember the call and mark its request."""
        while self._open:
            oldest = next(iter(self._open.values()))
            if time.monotonic() - oldest.started_s < CALL_S_MAX:
                break
            self._open.popitem(last=False)
        self._open[call.token] = call
        for name in _BUCKETS:
            bucket = data.get(name)
            if isinstance(bucket, dict):
                bucket[_MARK] = call.token
        if not any(isinstance(data.get(name), dict) for name in _BUCKETS):
            data["metadata"] = {_MARK: call.token}

    def of(self, data: Mapping[str, Any]) -> Call | None:
        """The call of this request data, or of the keyword arguments of a log event."""
        parameters = data.get("litellm_params")
        for place in (data, parameters if isinstance(parameters, Mapping) else {}):
            for name in _BUCKETS:
                bucket = place.get(name)
                token = bucket.get(_MARK) if isinstance(bucket, Mapping) else None
                if isinstance(token, str) and (
                    found := self._open.get(token) or self._ended.get(token)
                ):
                    return found
        return None

    def end(self, call: Call) -> bool:
        """Claim the end of a call. False when something else ended it already."""
        if call.ended:
            return False
        call.ended = True
        self._open.pop(call.token, None)
        self._ended.keep(call.token, call)
        return True
