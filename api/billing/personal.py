"""Names the organisation of one that holds a user's individual credits."""

from __future__ import annotations

import hashlib

from taximeter.meter import InvalidRequest
from taximeter.meter.wire.limits import check_org_id

PERSONAL_PREFIX = "personal:"
_HASHED = "sha256:"


def personal_org_id(user_id: str) -> str:
    """The id of a user's organisation of one: readable where the user's id allows it."""
    org_id = f"{PERSONAL_PREFIX}{user_id}"
    try:
        check_org_id(org_id)
    except InvalidRequest:
        readable = False
    else:
        readable = not user_id.startswith(_HASHED)
    digest = hashlib.sha256(user_id.encode()).hexdigest()
    return org_id if readable else f"{PERSONAL_PREFIX}{_HASHED}{digest}"
