"""Keeps one request that was admitted on credit, and writes it as lines of the journal."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from taximeter.meter.credit_line.journal import Line
from taximeter.meter.wire.errors import NotAllowed, RequestConflict
from taximeter.meter.wire.limits import PAYLOAD_BYTES_MAX
from taximeter.meter.wire.operations import Operation
from taximeter.meter.wire.receipt import Receipt, State


@dataclass(slots=True)
class Entry:
    """A request that was admitted on credit: open until `due` says what to charge, or until
    `deadline` (by the event loop's clock), which is `ttl_ms` after it was last heard of. When that
    has passed, `due` is an `expire` of what was reported, and a commit that comes later charges the
    rest.
    """

    operation: Operation
    ttl_ms: int
    deadline: float
    progress: int = 0
    due: Operation | None = None
    is_aside: bool = False
    """Written down for a person, but not yet ended in the journal."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Whoever ends or changes it: what is in memory is on disk first."""

    @classmethod
    def opened(cls, operation: Operation) -> Entry:
        """One that begins now."""
        return cls(operation, operation.ttl_ms, _deadline_in(operation.ttl_ms))

    def touched(self, progress: int, ttl_ms: int) -> None:
        """Take what was reported just now, and wait so long from now on."""
        self.progress, self.ttl_ms, self.deadline = progress, ttl_ms, _deadline_in(ttl_ms)

    @property
    def outstanding(self) -> int:
        """Millicredits that it takes of the line: what is due, else what it holds."""
        return self.due.amount if self.due else self.operation.amount


def receipt_of(entry: Entry) -> Receipt:
    """What became of it. The live balance is not known, so its figures are 0."""
    operation, due = entry.operation, entry.due
    state: State = "open"
    if due is not None:
        state = "expired" if due.op == "expire" else "committed"
    charged = due.amount if due else 0
    return Receipt(operation.request_id, state, operation.amount, charged, 0, 0)


def check_rights(entry: Entry, operation: Operation) -> None:
    """As the scripts do: a key ends and touches what it has opened, within what was held, unless it
    has the right to more. Raises RequestConflict for another user's request, NotAllowed.
    """
    opened = entry.operation
    if operation.account != opened.account:
        raise RequestConflict(Receipt(operation.request_id, "foreign", 0, 0, 0, 0))
    rights, _, asker = operation.owner.partition("O")
    if not asker:
        return
    if "a" not in rights and asker != opened.owner.partition("O")[2]:
        raise NotAllowed(operation.request_id, "opener")
    if "c" not in rights and operation.amount > opened.amount:
        right = "progress" if operation.op == "touch" else "charge"
        raise NotAllowed(operation.request_id, right)


def org_of(operation: Operation) -> str:
    """The organisation whose line an operation draws on."""
    return operation.key.partition("/")[0]


def _deadline_in(ttl_ms: int) -> float:
    return asyncio.get_running_loop().time() + ttl_ms / 1000


def opened_line(entry: Entry) -> Line:
    """What the journal keeps when a request is admitted."""
    return {"do": "open", "operation": list(entry.operation)}


def due_line(operation: Operation) -> Line:
    """What the journal keeps when an amount is to be charged."""
    return {"do": "due", "operation": list(operation)}


def touched_line(entry: Entry, progress: int, ttl_ms: int) -> Line:
    """What the journal keeps of a heartbeat: millicredits so far, and its life from now."""
    return {"do": "touch", "key": entry.operation.key, "progress": progress, "ttl_ms": ttl_ms}


def ended_line(entry: Entry) -> Line:
    """What the journal keeps when nothing is left to be charged."""
    return {"do": "end", "key": entry.operation.key}


def marked(payload: str) -> str:
    """The payload with `on_credit` in its metadata, so that reports can tell; as it was when that
    is not possible.
    """
    try:
        fields: dict[str, Any] = json.loads(payload or "{}")
        fields.setdefault("type", "llm_inference")
        fields.setdefault("name", "")
        fields["meta"] = {**fields.get("meta", {}), "on_credit": True}
        text = json.dumps(fields, separators=(",", ":"))
    except (ValueError, TypeError):
        return payload
    return text if len(text) <= PAYLOAD_BYTES_MAX else payload
