"""Keeps our own cookies alone, of those that a browser sends.

The framework reads every cookie of every request, whether or not a route has any use for them, and
takes seconds for one of 30 kB that is full of backslashes. So all others end here, before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

SESSION_COOKIE: Final = "session_token"
"""Holds a token of the identity provider, which a front end of somebody else's has put there."""


@dataclass(frozen=True, slots=True)
class BrowserCookies:
    """Names of the cookies that we set ourselves, and whether they travel over TLS alone. A browser
    lets nobody but this very host set one whose name begins with `__Host-`.
    """

    session: str
    attempt: str
    leaving: str
    secure: bool


def _named(prefix: str, *, secure: bool) -> BrowserCookies:
    return BrowserCookies(
        session=f"{prefix}taximeter_session",
        attempt=f"{prefix}taximeter_sign_in",
        leaving=f"{prefix}taximeter_sign_out",
        secure=secure,
    )


OVER_TLS: Final = _named("__Host-", secure=True)
ON_LOOPBACK: Final = _named("", secure=False)

_NAMES: Final = frozenset(
    name.encode()
    for name in (
        SESSION_COOKIE,
        *(OVER_TLS.session, OVER_TLS.attempt, OVER_TLS.leaving),
        *(ON_LOOPBACK.session, ON_LOOPBACK.attempt, ON_LOOPBACK.leaving),
    )
)
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/=-]+")


def keep_session_cookie(scope: Scope) -> None:
    """Leave no cookies in the headers but ours, each as it was written last; none that has other
    characters than a token.
    """
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    sent = [value for name, value in headers if name == b"cookie"]
    if not sent:
        return
    kept = [one for one in headers if one[0] != b"cookie"]
    ours: dict[bytes, bytes] = {}
    for pair in b";".join(sent).split(b";"):
        name, _, value = pair.partition(b"=")
        if (name := name.strip()) in _NAMES:
            ours[name] = value.strip().strip(b'"')
    written = [name + b"=" + token for name, token in ours.items() if _TOKEN.fullmatch(token)]
    if written:
        kept.append((b"cookie", b"; ".join(written)))
    scope["headers"] = kept
