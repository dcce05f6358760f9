"""Answers what is asked with GET: a balance, and what became of a request id."""

from __future__ import annotations

from urllib.parse import parse_qsl

from taximeter.meter.client import Meter
from taximeter.meter.sidecar.answers import http_refusal
from taximeter.meter.sidecar.calls import full_answer
from taximeter.meter.sidecar.fields import NAME_LENGTH_MAX
from taximeter.meter.sidecar.grants import Grant
from taximeter.meter.wire.errors import InvalidRequest


async def balance(meter: Meter, query: bytes, grant: Grant | None = None) -> bytes:
    """The live balance of `org_id` and `user_id`."""
    org_id, user_id = _parameters(query, "org_id", "user_id")
    if grant is not None:
        grant.check("balance", org_id, user_id)
    found = await meter.balance(org_id, user_id)
    return b'{"available_millicredits":%d,"held_millicredits":%d}' % (found.available, found.held)


async def operation(meter: Meter, query: bytes, grant: Grant | None = None) -> bytes:
    """What became of `request_id` of `org_id`. Raises Refusal (404) when it is not remembered."""
    org_id, request_id = _parameters(query, "org_id", "request_id")
    if grant is not None:
        grant.check("lookup", org_id, grant.user_id)
    of_user = None if grant is None else grant.user_id
    receipt = await meter.request(org_id, request_id, user_id=of_user)
    if receipt is None:
        raise http_refusal("unknown_request", {"request_id": request_id})
    return full_answer(receipt)


def _parameters(query: bytes, *names: str) -> list[str]:
    """The values of exactly these parameters. Raises InvalidRequest naming a wrong one."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=len(names) + 1,
        )
    except ValueError:
        limit = f"{' and '.join(names)}, as name=value in percent-encoded UTF-8"
        raise InvalidRequest("query", limit) from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in names:
            shown = name[:NAME_LENGTH_MAX]
            raise InvalidRequest(shown, f"left out; the parameters are {' and '.join(names)}")
        if name in found:
            raise InvalidRequest(name, "given once")
        found[name] = value
    for name in names:
        if name not in found:
            raise InvalidRequest(name, "given in the query")
    return [found[name] for name in names]
