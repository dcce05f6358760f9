"""Says what a key allows: one organisation, some operations, and one user of it or all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from taximeter.meter.sidecar.answers import Refusal, http_refusal
from taximeter.meter.wire.hold_record import Asker
from taximeter.meter.wire.usage import Usage

ANY_HOLD: Final = "any_hold"
"""The right to end and touch holds that others have opened."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What the holder of a key may do. `user_id` is None when the key acts for any user. Holds are
    kept as opened by `opener`, which keys of one name share, so that one can replace another.
    `key_id` goes with every charge that is made by it; empty for keys that have none.
    """

    org_id: str
    user_id: str | None
    operations: frozenset[str]
    opener: str
    key_id: str = ""
    asker: Asker = field(init=False, repr=False, compare=False)
    """What it may do to holds: its own, within what they hold, unless it has the right to more."""

    def __post_init__(self) -> None:
        asker = Asker(
            self.opener,
            may_charge="charge" in self.operations,
            any_hold=ANY_HOLD in self.operations,
        )
        object.__setattr__(self, "asker", asker)

    def checked(self, operation: str, org_id: str, user_id: str | None) -> Asker:
        """Who asks, as the scripts are told. Raises Refusal (403) as `check`."""
        self.check(operation, org_id, user_id)
        return self.asker

    def noted(self, usage: Usage) -> Usage:
        """The usage with the key that it was made by, whatever the caller has said there."""
        if not self.key_id:
            return usage
        return replace(usage, metadata={**usage.metadata, "key_id": self.key_id})

    def check(self, operation: str, org_id: str, user_id: str | None) -> None:
        """Raise Refusal (403) for anything that the key is not for."""
        if operation not in self.operations:
            raise _denied("op", f"This key may not {operation}.")
        if org_id != self.org_id:
            raise _denied("org_id", "This key is for another organization.")
        if self.user_id is not None and user_id != self.user_id:
            raise _denied("user_id", "This key is for another user.")


class KeyRing(Protocol):
    """The keys that are accepted, asked in two steps so that a key in use costs no wait."""

    def known(self, header: bytes) -> Grant | None:
        """What this Authorization header allows, if that is known without asking anybody."""

    async def find(self, header: bytes) -> Grant | None:
        """The same, asking whoever keeps the keys; None when it is no good key. Raises Refusal
        (503) when nobody can tell.
        """


UNLIMITED: Final = Grant("", None, frozenset(), "everything")
"""What a key from the sidecar's own settings allows: everything. It is never checked."""


def _denied(field: str, message: str) -> Refusal:
    return http_refusal("permission_denied", {"field": field}, words=message)
