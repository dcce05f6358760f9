"""Answers what gateways ask before they let a request through: nginx `auth_request`, Caddy and
Traefik forward auth, Envoy `ext_authz` over HTTP. `docs/forward-auth.md` is its manual.

Everything that decides about money stands in the path, which the gateway's configuration fixes;
a query may be the caller's own (Envoy appends it), and headers are what the gateway sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from taximeter.meter.client import Meter
from taximeter.meter.sidecar.answers import (
    Refusal,
    http_refusal,
    refusal_of,
    replayed,
)
from taximeter.meter.sidecar.calls import Operations, full_answer, short_answer
from taximeter.meter.sidecar.exact_json import millicredits_of
from taximeter.meter.sidecar.grants import Grant
from taximeter.meter.wire.credits import text_of_credits
from taximeter.meter.wire.errors import InvalidRequest, MeterError, RequestReplayed, UnknownHold
from taximeter.meter.wire.http_refusals import HttpCause
from taximeter.meter.wire.receipt import Receipt
from taximeter.meter.wire.refusals import REFUSALS, RETRY_AFTER_S, Cause, cause_of
from taximeter.meter.wire.usage import Usage

PREFIX: Final = "/auth/"
ROUTES: Final = ("/auth/charge/{price}", "/auth/reserve/{price}", "/auth/settle")
"""As the OpenAPI document has them. They take any method, as gateways send many."""

SERVICE_TYPE: Final = "api_request"
URI_LENGTH_MAX: Final = 256
_SERVICE_LENGTH_MAX: Final = 255
_OPERATIONS: Final = {
    "charge": ("charge",),
    "reserve": ("reserve",),
    "settle": ("commit", "release"),
}
"""What a key must be for."""
_REFUSED_AS_403: Final = (402, 409, 429)

ORG: Final = "X-Org-Id"
USER: Final = "X-User-Id"
REQUEST: Final = "X-Request-Id"
KEY: Final = "X-Taximeter-Key"
SERVICE: Final = "X-Taximeter-Service"
COST: Final = "X-Taximeter-Cost"
STATUS: Final = "X-Taximeter-Status"
_URIS: Final = ("X-Original-Uri", "X-Forwarded-Uri")
_METHODS: Final = ("X-Original-Method", "X-Forwarded-Method")
_READ: Final = {
    name.lower().encode(): name
    for name in (ORG, USER, REQUEST, KEY, SERVICE, COST, STATUS, *_URIS, *_METHODS)
}

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ForwardAuthPolicy:
    """`hold_s` is the life of a hold that nobody settles; it ends without a charge. With
    `repeats_pass` a request id that was let through is let through again, for the one charge.
    """

    hold_s: float = 300.0
    repeats_pass: bool = False


class GateAnswer(NamedTuple):
    """An answer with its headers, and why it is a refusal, if it is one."""

    status: int
    body: bytes
    headers: RawHeaders
    cause: Cause | HttpCause | None = None


class ForwardAuth:
    """Charges or reserves a fixed price for a request, and settles what was reserved.

    What was answered with 200 is in Redis. If this process dies meanwhile, it took effect once or
    not at all, the gateway gets no answer and lets nobody through.
    """

    def __init__(self, operations: Operations, policy: ForwardAuthPolicy) -> None:
        self._operations = operations
        self._policy = policy

    async def answer(
        self, path: str, query: bytes, headers: Mapping[str, str], grant: Grant | None = None
    ) -> GateAnswer:
        """Decide, within what the grant allows. Refusals are answers too, as 403 where the
        gateway passes nothing else on.
        """
        try:
            receipt = await self._decide(path, headers, grant)
        except MeterError as error:
            refusal = refusal_of(error)
            refusal.status = REFUSALS[cause_of(error)].gate.status
        except Refusal as error:
            refusal = error
        else:
            body = full_answer(receipt) if receipt.state == "open" else short_answer(receipt)
            return GateAnswer(200, body, _figures(receipt))
        return _refused(refusal, as_403=b"refuse_with=403" in query.split(b"&"))

    async def _decide(self, path: str, headers: Mapping[str, str], grant: Grant | None) -> Receipt:
        action, _, rest = path.removeprefix(PREFIX).partition("/")
        if action not in _OPERATIONS:
            raise http_refusal("not_there")
        meter = self._operations.connected()
        ids = _required(headers, ORG), _required(headers, USER)
        asker = None
        if grant is not None:
            for operation in _OPERATIONS[action]:
                asker = grant.checked(operation, *ids)
        if action == "settle":
            return await _settle(meter, *ids, headers, grant)
        if self._operations.taking_nothing is not None:
            raise self._operations.taking_nothing
        price = millicredits_of(rest.partition("/")[0], "price")
        usage = _noted(_usage(headers, rest), grant)
        request_id = headers.get(REQUEST)
        if action == "charge":
            receipt = await meter.charge(
                *ids, price, request_id=request_id, usage=usage, pays_ahead=True
            )
            return self._let_through(receipt) if receipt.replayed else receipt
        try:
            hold = await meter.reserve(
                *ids,
                price,
                request_id=request_id,
                ttl_s=self._policy.hold_s,
                usage=usage,
                opener="" if asker is None else asker.name,
            )
        except RequestReplayed as replay:
            return self._let_through(replay.outcome)
        return Receipt(hold.request_id, "open", price, 0, hold.available, hold.held)

    def _let_through(self, outcome: Receipt) -> Receipt:
        """A request id that came before: its answer, if that is the policy and it was paid."""
        if self._policy.repeats_pass and outcome.state in ("open", "charged", "committed"):
            return outcome
        raise replayed(outcome)


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers that matter here, without empty ones. Raises InvalidRequest for one that is given
    twice: a gateway that adds where it should replace would let callers name themselves.
    """
    found: dict[str, str] = {}
    for raw_name, value in raw:
        name = _READ.get(raw_name)
        if name is None:
            continue
        if name in found:
            raise InvalidRequest(name, "given once: the gateway must replace what a caller sent")
        try:
            found[name] = value.decode().strip()
        except UnicodeDecodeError:
            raise InvalidRequest(name, "UTF-8") from None
    return {name: value for name, value in found.items() if value}


async def _settle(
    meter: Meter, org_id: str, user_id: str, headers: Mapping[str, str], grant: Grant | None
) -> Receipt:
    """Commit the cost that the upstream named. Without one, its success costs what was held, and
    its failure nothing.
    """
    asker = None if grant is None else grant.asker
    request_id = _required(headers, REQUEST)
    status, cost = headers.get(STATUS, ""), headers.get(COST)
    if cost is not None:
        amount = millicredits_of(cost, COST)
    elif not (status.isascii() and status.isdigit() and len(status) <= 3):
        raise InvalidRequest(COST, f"given, or {STATUS} as a number")
    elif not 200 <= int(status) < 400:
        return await meter.release(org_id, user_id, request_id, asker=asker)
    else:
        found = await meter.request(org_id, request_id, user_id=user_id)
        if found is None:
            raise UnknownHold(request_id)
        amount = found.reserved if found.state != "charged" else found.charged
    usage = _noted(_usage(headers, ""), grant) if SERVICE in headers else None
    return await meter.commit(org_id, user_id, request_id, amount, usage=usage, asker=asker)


def _usage(headers: Mapping[str, str], rest: str) -> Usage:
    """What a request was for. Its query is left out: callers put secrets there."""
    uri = next((headers[name] for name in _URIS if name in headers), "")
    uri = uri or f"/{rest.partition('/')[2]}"
    method = next((headers[name] for name in _METHODS if name in headers), None)
    about: dict[str, Any] = {"gateway": "forward_auth", "uri": uri.partition("?")[0]}
    about["uri"] = about["uri"][:URI_LENGTH_MAX]
    if method is not None:
        about["method"] = method[:16]
    name = headers.get(SERVICE, "forward_auth")[:_SERVICE_LENGTH_MAX]
    return Usage(SERVICE_TYPE, name, about)


def _noted(usage: Usage, grant: Grant | None) -> Usage:
    return usage if grant is None else grant.noted(usage)


def _required(headers: Mapping[str, str], name: str) -> str:
    if name not in headers:
        raise InvalidRequest(name, "given by the gateway")
    return headers[name]


def _figures(receipt: Receipt) -> RawHeaders:
    figures = [
        (b"x-credits-remaining", _credits(receipt.available)),
        (b"x-taximeter-request-id", receipt.request_id.encode()),
    ]
    if receipt.state in ("charged", "committed"):
        figures.append((b"x-cost-incurred", _credits(receipt.charged)))
    return figures


def _refused(refusal: Refusal, *, as_403: bool) -> GateAnswer:
    headers = [
        (b"x-taximeter-status", b"%d" % refusal.status),
        (b"x-taximeter-error", refusal.code.encode()),
    ]
    if refusal.retry:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    if type(have := refusal.details.get("have_millicredits")) is int:
        headers.append((b"x-credits-remaining", _credits(have)))
    status = 403 if as_403 and refusal.status in _REFUSED_AS_403 else refusal.status
    return GateAnswer(status, refusal.body(), headers, refusal.cause)


def _credits(millicredits: int) -> bytes:
    return text_of_credits(millicredits).encode()
