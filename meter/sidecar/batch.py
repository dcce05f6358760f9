"""Answers a batch: many operations in one body, each with its own answer, in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from taximeter.meter.sidecar.answers import Refusal, refusal_of
from taximeter.meter.sidecar.calls import Operations, reserved_answer, short_answer
from taximeter.meter.sidecar.fields import check_names
from taximeter.meter.sidecar.grants import Grant
from taximeter.meter.wire.errors import InvalidRequest, MeterError
from taximeter.meter.wire.operations import Operation

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
    ops = [one.pop("op", None) for one in wanted]

    async def run_chain(places: list[int]) -> None:
        for place in places:
            try:
                answer = await operations.run(_checked(ops[place]), wanted[place], grant)
                results[place] = _done(answer)
            except (MeterError, Refusal) as error:
                results[place] = _refused(operations, error)

    async def run_together() -> None:
        told = await operations.connected().run_many(list(together.values()))
        for (place, operation), one in zip(together.items(), told, strict=True):
            if isinstance(one, MeterError):
                results[place] = _refused(operations, one)
            else:
                is_hold = operation.op == "reserve"
                results[place] = _done(reserved_answer(one) if is_hold else short_answer(one))

    # Those that wait for nothing before they are sent share one wait for their answers.
    together: dict[int, Operation] = {}
    apart: list[list[int]] = []
    for places in chains.values():
        place = places[0]
        try:
            found = None
            if len(places) == 1:
                found = operations.unpriced(_checked(ops[place]), wanted[place], grant)
        except (MeterError, Refusal) as error:
            results[place] = _refused(operations, error)
        else:
            if found is None:
                apart.append(places)
            else:
                together[place] = found
    working: list[Coroutine[Any, Any, None]] = [run_together()] if together else []
    await asyncio.gather(*working, *map(run_chain, apart))
    return b'{"results":[' + b",".join(results) + b"]}"


def _checked(op: object) -> str:
    if type(op) is not str:
        raise InvalidRequest("op", "given, as text")
    return op


def _done(answer: bytes) -> bytes:
    return b'{"status":200,' + answer[1:]


def _refused(operations: Operations, error: MeterError | Refusal) -> bytes:
    refusal = error if isinstance(error, Refusal) else refusal_of(error)
    operations.refused[refusal.cause] += 1
    return b'{"status":%d,' % refusal.status + refusal.body()[1:]
