"""Runs the five operations: from the fields of a body to the bytes of an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, cast

from taximeter.meter.client import Meter
from taximeter.meter.hold import Hold
from taximeter.meter.sidecar.answers import UNAVAILABLE, Refusal
from taximeter.meter.sidecar.fields import (
    FIELDS,
    amount_of,
    check_names,
    request_id_of,
    text_of,
    ttl_of,
    usage_of,
)
from taximeter.meter.sidecar.grants import Grant
from taximeter.meter.sidecar.model_prices import Prices
from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.hold_record import Asker
from taximeter.meter.wire.http_refusals import HttpCause
from taximeter.meter.wire.ids import new_request_id
from taximeter.meter.wire.limits import check_ttl
from taximeter.meter.wire.operations import TAKES_CREDIT, Op, Operation, operation_of
from taximeter.meter.wire.receipt import Receipt
from taximeter.meter.wire.refusals import Cause
from taximeter.meter.wire.usage import Usage

# Filled in by hand: request ids and states need no escapes, everything else is a number.
_RESERVED: Final = (
    '{"request_id":"%s","state":"open","reserved_millicredits":%d,"charged_millicredits":0,'
    '"available_millicredits":%d,"held_millicredits":%d,"replayed":false,"late":false}'
)
_FULL: Final = (
    '{"request_id":"%s","state":"%s","reserved_millicredits":%d,"charged_millicredits":%d,'
    '"available_millicredits":%d,"held_millicredits":%d,"replayed":%s,"late":%s}'
)
_ENDED: Final = (
    '{"request_id":"%s","state":"%s","charged_millicredits":%d,'
    '"available_millicredits":%d,"held_millicredits":%d,"replayed":%s,"late":%s}'
)
_BOOLEANS: Final = ("false", "true")


def full_answer(receipt: Receipt) -> bytes:
    """A receipt that says what was reserved: of a hold, a replay or a look-up."""
    return (_FULL % (*receipt[:6], _BOOLEANS[receipt.replayed], _BOOLEANS[receipt.late])).encode()


def reserved_answer(receipt: Receipt) -> bytes:
    """What a reserve has opened just now."""
    request_id, _, amount, _, available, held, *_ = receipt
    return (_RESERVED % (request_id, amount, available, held)).encode()


def short_answer(receipt: Receipt) -> bytes:
    """A receipt of what was done just now; what had been reserved is known to a replay only."""
    if receipt.replayed:
        return full_answer(receipt)
    request_id, state, _, charged, available, held, _, late = receipt
    return (
        _ENDED % (request_id, state, charged, available, held, "false", _BOOLEANS[late])
    ).encode()


class Operations:
    """Runs operations on a meter that may not be connected yet, or may be about to go."""

    def __init__(self, meter: Meter | None, prices: Prices | None) -> None:
        self.meter = meter
        self.taking_nothing: Refusal | None = None
        """Why no credits are taken now: it is stopping, or this may be a copy."""
        self.refusal = UNAVAILABLE
        """Why nothing can be done while there is no meter."""
        self._prices = prices
        self.refused: Counter[Cause | HttpCause] = Counter()
        """Why operations of batches were refused."""

    def connected(self) -> Meter:
        """The meter. Raises Refusal while there is none."""
        if self.meter is None:
            raise self.refusal
        return self.meter

    async def run(self, op: str, fields: Mapping[str, Any], grant: Grant | None = None) -> bytes:
        """Do one operation, if the caller's grant allows it, and return the JSON of its receipt.

        Raises MeterError or Refusal, and then nothing was charged, except that OutcomeUnknown says
        what it says. What was returned is in Redis. If this process dies meanwhile, the operation
        took effect once or not at all, and the request id tells which.
        """
        op, meter, org_id, user_id, asker = self._begun(op, fields, grant)
        if op == "reserve":
            hold = await self._reserve(meter, org_id, user_id, fields, asker, grant)
            return (_RESERVED % (hold.request_id, hold.amount, hold.available, hold.held)).encode()
        if op == "charge":
            amount, usage = amount_of(op, fields) or self._priced().charge(fields, usage_of(fields))
            usage = _noted(op, usage, grant)
            request_id = request_id_of(fields)
            receipt = await meter.charge(
                org_id, user_id, amount, request_id=request_id, usage=usage
            )
            return short_answer(receipt)
        return short_answer(await self._on_hold(meter, op, org_id, user_id, fields, asker, grant))

    def unpriced(self, op: str, fields: Mapping[str, Any], grant: Grant | None) -> Operation | None:
        """One with an amount that can go with others of its kind; None for one whose model has to
        be priced. Raises as `run`.
        """
        op, _, org_id, user_id, asker = self._begun(op, fields, grant)
        takes_credit = op in TAKES_CREDIT
        request_id = None if takes_credit else text_of(fields, "request_id")
        given = (0, None) if op == "release" else amount_of(op, fields)
        if given is None:
            return None
        amount, usage = given[0], _noted(op, given[1], grant)
        if takes_credit:
            request_id = request_id_of(fields)
        if request_id is None:
            request_id = new_request_id()
        ttl_ms = check_ttl(ttl_of(fields)) if op in ("reserve", "touch") else 0
        if takes_credit:
            opener = asker.name if op == "reserve" and asker is not None else ""
            return operation_of(op, org_id, user_id, request_id, amount, ttl_ms, usage, opener)
        return operation_of(op, org_id, user_id, request_id, amount, ttl_ms, usage, asker=asker)

    def _begun(
        self, op: str, fields: Mapping[str, Any], grant: Grant | None
    ) -> tuple[Op, Meter, str, str, Asker | None]:
        """What all operations have, checked, and who asks."""
        if op not in FIELDS:
            raise InvalidRequest("op", f"one of {', '.join(FIELDS)}")
        op = cast(Op, op)
        if self.taking_nothing is not None and op in TAKES_CREDIT:
            raise self.taking_nothing
        meter = self.meter or self.connected()
        check_names(fields, FIELDS[op])
        org_id, user_id = text_of(fields, "org_id"), text_of(fields, "user_id")
        asker = None if grant is None else grant.checked(op, org_id, user_id)
        return op, meter, org_id, user_id, asker

    async def _reserve(
        self,
        meter: Meter,
        org_id: str,
        user_id: str,
        fields: Mapping[str, Any],
        asker: Asker | None,
        grant: Grant | None,
    ) -> Hold:
        given = amount_of("reserve", fields)
        opener = "" if asker is None else asker.name
        request_id, ttl_s = request_id_of(fields), ttl_of(fields)
        if given is None:
            return await self._priced().reserve(
                *(meter, org_id, user_id, fields, _noted("reserve", usage_of(fields), grant)),
                request_id=request_id,
                ttl_s=ttl_s,
                opener=opener,
            )
        return await meter.reserve(
            *(org_id, user_id, given[0]),
            request_id=request_id,
            ttl_s=ttl_s,
            usage=_noted("reserve", given[1], grant),
            opener=opener,
        )

    async def _on_hold(
        self,
        meter: Meter,
        op: Op,
        org_id: str,
        user_id: str,
        fields: Mapping[str, Any],
        asker: Asker | None,
        grant: Grant | None,
    ) -> Receipt:
        request_id = text_of(fields, "request_id")
        if op == "release":
            return await meter.release(org_id, user_id, request_id, asker=asker)
        given = amount_of(op, fields)
        if given is None:
            prices = self._priced()
            price = prices.touch if op == "touch" else prices.commit
            given = await price(meter, org_id, fields, usage_of(fields))
        amount, usage = given[0], _noted(op, given[1], grant)
        if op == "touch":
            return await meter.touch(
                *(org_id, user_id, request_id, amount),
                ttl_s=ttl_of(fields),
                usage=usage,
                asker=asker,
            )
        return await meter.commit(org_id, user_id, request_id, amount, usage=usage, asker=asker)

    def _priced(self) -> Prices:
        """What prices models. Raises InvalidRequest where there is nothing that could."""
        if self._prices is None:
            raise InvalidRequest(
                "model", "left out: pricing is not available in this sidecar, so give an amount"
            )
        return self._prices


def _noted(op: Op, usage: Usage | None, grant: Grant | None) -> Usage | None:
    """What it is for, and by which key. What takes credit says so in any case; the rest leaves it
    at what the hold says when it says nothing itself.
    """
    if grant is None or not grant.key_id:
        return usage
    if usage is None:
        return grant.noted(Usage()) if op in TAKES_CREDIT else None
    return grant.noted(usage)


__all__ = ["Operations", "Refusal", "full_answer", "short_answer"]
