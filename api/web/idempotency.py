"""Lets a request that changes money take effect once, however often it comes with its
Idempotency-Key.

    async with services.pool.acquire() as conn, conn.transaction():
        request = Repeatable("credits.transfer", org_id, key, body)
        return await answer_once(conn, request, Transferred, lambda: transfer(conn, ...))

The answer is kept in the transaction of the effect: after a crash there are both or neither. A
repetition that comes while the first request still runs waits for it. What is refused changes
nothing and is not kept, so that the same key may be tried again when the reason has gone. Answers
are pruned by the settler after `idempotency_retention_s`; who may repeat a request is decided by
the route, before anything here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Header
from pydantic import BaseModel

from taximeter.api.sql import IDEMPOTENCY
from taximeter.api.web.errors import ApiError, admin_refusal
from taximeter.api.web.json_numbers import Body, ShortText
from taximeter.settler.books.stores import Connection

IdempotencyKey = Annotated[
    ShortText | None,
    Header(
        alias="Idempotency-Key",
        description="The same key with the same body takes effect once and is answered the same",
        examples=["5f0c9d1e-purchase-42"],
    ),
]

Answer = TypeVar("Answer", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A request that may come again. A key is one request of its endpoint and scope, which is the
    organisation, or the caller where the endpoint stands above organisations. `name` is what the
    caller knows the key as.
    """

    endpoint: str
    scope: str
    key: str | None
    body: Body | None = None
    name: str = "Idempotency-Key"

    def body_hash(self) -> bytes:
        """What the body means: equal for 5, 5.0 and a field that was left at its default."""
        values = self.body.model_dump(mode="json", exclude_defaults=True) if self.body else {}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()


async def answer_once(
    conn: Connection,
    request: Repeatable,
    kind: type[Answer],
    work: Callable[[], Awaitable[Answer]],
) -> Answer:
    """The answer of `work`, or the one that the first request with this key had.

    Call it first in a transaction: the effect and the kept answer are durable when that commits.
    Raises ApiError 409 when the key was used with another body, and whatever `work` raises.
    """
    if request.key is None:
        return await work()
    place = (request.endpoint, request.scope, request.key)
    await conn.execute(IDEMPOTENCY["lock_key"], *place)
    first = await conn.fetchrow(IDEMPOTENCY["find_answer"], *place)
    body_hash = request.body_hash()
    if first is not None:
        if first["body_hash"] != body_hash:
            raise admin_refusal("conflict", details={"field": request.name}, name=request.name)
        return kind.model_validate_json(first["answer"])
    answer = await work()
    await conn.execute(IDEMPOTENCY["keep_answer"], *place, body_hash, answer.model_dump_json())
    return answer


class _Made(BaseModel):
    """What is kept of an answer that shows a secret."""

    id: str


async def make_once(
    conn: Connection, request: Repeatable, words: str, work: Callable[[], Awaitable[tuple[str, T]]]
) -> T:
    """The same of an answer with a secret, which nobody keeps: `work` returns what it has made and
    its id. A repetition makes nothing, and is refused with 409 and `words`, of which `{id}` is that
    id.
    """
    fresh: list[T] = []

    async def keep() -> _Made:
        made_id, made = await work()
        fresh.append(made)
        return _Made(id=made_id)

    kept = await answer_once(conn, request, _Made, keep)
    if fresh:
        return fresh[0]
    raise ApiError(409, words.format(id=kept.id), details={"id": kept.id})
