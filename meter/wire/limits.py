"""Checks everything that enters the meter against its limit."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.keys import account_field

AMOUNT_MAX: Final = 10**12
"""Most millicredits of one operation (10^9 credits)."""
BALANCE_MAX: Final = 9 * 10**14
"""Most millicredits of one balance, either way: below 2^53 and below 16 digits."""
PAYLOAD_BYTES_MAX: Final = 4096
"""Most bytes of the JSON that says what a charge was for."""
TTL_MS_MAX: Final = 86_400_000
"""Longest life of a hold without a heartbeat: one day."""
OPEN_HOLDS_MAX: Final = 1000
"""Most holds that an account may have open where the settler has not said another number."""
FREE_HOLD_TTL_MS: Final = 300_000
"""Longest life of a hold of nothing: five minutes."""
OPERATIONS_PER_CALL_MAX: Final = 1000
"""Most operations of one script call."""

_ORG_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_is_request_id = re.compile(r"[A-Za-z0-9._:-]{1,128}").fullmatch
_OPENER = re.compile(r"[A-Za-z0-9]{0,32}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_org_id(org_id: object) -> str:
    """Return `org_id`, or raise InvalidRequest: its pattern keeps `/` free to part organisation and
    user.
    """
    if not isinstance(org_id, str) or not _ORG_ID.fullmatch(org_id):
        raise InvalidRequest("org_id", "1 to 128 of A-Z a-z 0-9 . _ : @ -, first a letter or digit")
    return org_id


def check_user_id(user_id: object) -> str:
    """Return `user_id`, or raise InvalidRequest."""
    if not isinstance(user_id, str) or not 1 <= len(user_id) <= 255 or _CONTROL.search(user_id):
        raise InvalidRequest("user_id", "1 to 255 characters, no control characters")
    try:
        user_id.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("user_id", "text that UTF-8 can carry") from None
    return user_id


@lru_cache(maxsize=65_536)
def checked_account(org_id: str, user_id: str) -> str:
    """Name of an account. Raises InvalidRequest. Remembered, since the same users come again."""
    return account_field(check_org_id(org_id), check_user_id(user_id))


def check_request_id(request_id: object) -> str:
    """Return `request_id`, or raise InvalidRequest."""
    if not isinstance(request_id, str) or not _is_request_id(request_id):
        raise InvalidRequest("request_id", "1 to 128 of A-Z a-z 0-9 . _ : -")
    return request_id


def check_opener(opener: object) -> str:
    """Return `opener` (empty: nobody is named), or raise InvalidRequest."""
    if not isinstance(opener, str) or not _OPENER.fullmatch(opener):
        raise InvalidRequest("opener", "0 to 32 of A-Z a-z 0-9")
    return opener


def check_amount(amount: int, field: str = "amount") -> int:
    """Return `amount` (millicredits), or raise InvalidRequest. bool, float and text are refused."""
    if type(amount) is not int or not 0 <= amount <= AMOUNT_MAX:
        raise InvalidRequest(field, f"a whole number of millicredits from 0 to {AMOUNT_MAX}")
    return amount


def check_ttl(ttl_s: float) -> int:
    """Return the life of a hold in milliseconds, or raise InvalidRequest."""
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float):
        raise InvalidRequest("ttl_s", "a number of seconds")
    if not 0.001 <= ttl_s <= TTL_MS_MAX / 1000:
        raise InvalidRequest("ttl_s", f"0.001 to {TTL_MS_MAX // 1000} seconds")
    return int(ttl_s * 1000)
