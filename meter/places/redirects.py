"""Reads where a server of a cluster sends us, out of the errors of any redis-py from 5 to 8.

Older ones hand on the text of the reply; newer ones have classes for some of them, whose text lacks
the code. An error out of a pipeline says first which command it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from redis.exceptions import ResponseError

_IN_PIPELINE: Final = re.compile(
    r"Command # \d+ \(.*\) of pipeline caused error: (?:\('(.*)',\)|(.*))", re.DOTALL
)
_ADDRESS: Final = re.compile(r"(\d{1,5}) (\S*):(\d{1,5})")
_BY_CLASS: Final = {
    "AskError": "ASK",
    "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
PASSING: Final = frozenset(_BY_CLASS.values())
"""What a server answers that has done nothing: another one is to be asked, or the same one soon."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """MOVED: the slot is there from now on. ASK: this one call is to go there, behind ASKING."""

    kind: Literal["MOVED", "ASK"]
    slot: int
    host: str
    """Empty when it is that of the server which said so."""
    port: int


def _text(error: BaseException) -> str:
    text = str(error)
    found = _IN_PIPELINE.fullmatch(text)
    return text if found is None else found[1] or found[2]


def code_of(error: BaseException) -> str:
    """The first word of an error reply; empty for what is none."""
    if not isinstance(error, ResponseError):
        return ""
    known = _BY_CLASS.get(type(error).__name__)
    return known or _text(error).partition(" ")[0]


def redirect_of(error: BaseException | None) -> Redirect | None:
    """Where the error sends us, None when nowhere."""
    if error is None or (kind := code_of(error)) not in ("MOVED", "ASK"):
        return None
    # Those that have a class keep the reply beside their text, which a pipeline may have replaced.
    said = getattr(error, "message", None) or _text(error)
    found = _ADDRESS.fullmatch(str(said).removeprefix(f"{kind} "))
    if found is None:
        return None
    slot, host, port = found.groups()
    return Redirect("MOVED" if kind == "MOVED" else "ASK", int(slot), host, int(port))
