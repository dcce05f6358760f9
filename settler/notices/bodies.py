"""Writes a notice in the form that its receiver reads: Standard Webhooks, Slack's, or words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from standardwebhooks import Webhook

from taximeter.settler.notices.catalogue import KINDS, in_credits

USER_AGENT: Final = "taximeter-notices"


@dataclass(frozen=True, slots=True)
class Notice:
    """One fact. `data` is as Postgres has it, in millicredits."""

    id: UUID
    type: str
    at: datetime
    org_id: str | None
    data: dict[str, Any]

    @property
    def message_id(self) -> str:
        """The same at every try and for every receiver."""
        return f"msg_{self.id.hex}"


def webhook_body(notice: Notice) -> str:
    """The JSON of Standard Webhooks: type, timestamp, data, and whose it is."""
    return json.dumps(
        {
            "type": notice.type,
            "timestamp": notice.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "org_id": notice.org_id,
            "data": in_credits(notice.data),
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def signed_headers(message_id: str, body: str, secrets: list[str], now: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks, with a signature by each secret: of two, while the older
    one is given up.
    """
    signatures = [Webhook(secret).sign(message_id, now, body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def slack_body(notice: Notice) -> str:
    """A message of an incoming webhook of Slack, or of whoever reads the same."""
    text = "\n".join(lines_of(notice))
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(plain, escaped)
    return json.dumps({"text": text}, ensure_ascii=False)


def lines_of(notice: Notice) -> Iterator[str]:
    """The notice in words, for people."""
    of = "" if notice.org_id is None else f" of {notice.org_id}"
    yield f"Taximeter: {notice.type}{of}"
    yield KINDS[notice.type].when
    for name, value in in_credits(notice.data).items():
        if value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{name}: {shown}"
