"""Keeps the session's cookie alone, of those that a browser sends.

The framework reads every cookie of every request, whether or not a route has any use for them, and
takes seconds for one of 30 kB that is full of backslashes. So all others end here, before it.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.types import Scope

SESSION_COOKIE: Final = "session_token"
_NAME: Final = SESSION_COOKIE.encode()
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/=-]+")


def keep_session_cookie(scope: Scope) -> None:
    """Leave no cookie in the headers but that of the session, as it was written last; none that has
    other characters than a token.
    """
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    sent = [value for name, value in headers if name == b"cookie"]
    if not sent:
        return
    kept = [one for one in headers if one[0] != b"cookie"]
    for pair in reversed(b";".join(sent).split(b";")):
        name, _, value = pair.partition(b"=")
        if name.strip() == _NAME:
            token = value.strip().strip(b'"')
            if _TOKEN.fullmatch(token):
                kept.append((b"cookie", _NAME + b"=" + token))
            break
    scope["headers"] = kept
