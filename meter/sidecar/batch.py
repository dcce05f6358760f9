"""Answers a batch: many operations in one body, each with its own answer, in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from taximeter.meter.sidecar.answers import Refusal, refusal_of
from taximeter.meter.sidecar.calls import Operations
from taximeter.meter.sidecar.fields import check_names
from taximeter.meter.sidecar.grants import Grant
from taximeter.meter.wire.errors import InvalidRequest, MeterError

OPERATIONS_MAX: Final = 500
_FIELDS: Final = frozenset(("operations",))


async def run_batch(
    operations: Operations, fields: Mapping[str, Any], grant: Grant | None = None
) -> bytes:
    """Run all operations and return `{"results": [...]}`, a result an operation, in their order.

    Operations on one request id run one after the other, as they were given; the others run at the
    same time. One that is refused does not stop the rest. Raises InvalidRequest when the batch
    itself is malformed, and nothing was done then. If this process dies meanwhile, any part of it
    may have taken effect.
    """
    check_names(fields, _FIELDS)
    wanted = fields.get("operations")
    if type(wanted) is not list or not 1 <= len(wanted) <= OPERATIONS_MAX:
        raise InvalidRequest("operations", f"a list of 1 to {OPERATIONS_MAX} operations")
    results: list[bytes] = [b""] * len(wanted)
    chains: dict[object, list[int]] = {}
    for place, one in enumerate(wanted):
        if type(one) is not dict:
            raise InvalidRequest(f"operations[{place}]", "a JSON object")
        org_id, request_id = one.get("org_id"), one.get("request_id")
        # An operation that names no request is alone; so is one whose names are not even text.
        named = type(org_id) is str and type(request_id) is str
        chains.setdefault((org_id, request_id) if named else place, []).append(place)

    async def run_chain(places: list[int]) -> None:
        for place in places:
            results[place] = await _result(operations, wanted[place], grant)

    await asyncio.gather(*map(run_chain, chains.values()))
    return b'{"results":[' + b",".join(results) + b"]}"


async def _result(operations: Operations, fields: dict[str, Any], grant: Grant | None) -> bytes:
    op = fields.pop("op", None)
    try:
        if type(op) is not str:
            raise InvalidRequest("op", "given, as text")
        return b'{"status":200,' + (await operations.run(op, fields, grant))[1:]
    except MeterError as error:
        refusal = refusal_of(error)
    except Refusal as error:
        refusal = error
    return b'{"status":%d,' % refusal.status + refusal.body()[1:]
