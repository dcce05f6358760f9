"""An unreadable payload never loses its charge, and nothing that we pass on is refused by
Postgres.
"""

from __future__ import annotations

import json

import asyncpg
import pytest
from settler_payloads import READABLE, UNREADABLE

from taximeter.meter.wire.usage import Usage
from taximeter.settler.settling.payloads import UNREADABLE_SERVICE_TYPE, read_payload


def test_the_payload_of_a_usage_comes_back() -> None:
    usage = Usage("llm_inference", "gpt-4o", {"tokens": 7, "note": 'a "b" \\ ü \u2028'})
    purpose = read_payload(usage.payload())
    assert (purpose.service_type, purpose.service_name) == ("llm_inference", "gpt-4o")
    assert json.loads(purpose.metadata) == usage.metadata


def test_escaped_names_are_read_as_well() -> None:
    purpose = read_payload('{"type":"a\\"b","name":"\\u00fc","meta":{}}')
    assert purpose == ('a"b', "ü", "{}")


def test_no_payload_is_the_default_usage() -> None:
    assert read_payload("") == ("llm_inference", "", "{}")


@pytest.mark.parametrize("payload", UNREADABLE[:-2] + UNREADABLE[-1:])
def test_an_unreadable_payload_is_kept_as_text(payload: str) -> None:
    purpose = read_payload(payload)
    assert purpose.service_type == UNREADABLE_SERVICE_TYPE
    kept = json.loads(purpose.metadata)["unreadable_payload"]
    assert kept == payload.replace("\x00", "\\x00")


async def test_postgres_takes_every_metadata(pool: asyncpg.Pool) -> None:
    for payload in UNREADABLE + READABLE:
        purpose = read_payload(payload)
        await pool.fetchval("SELECT $1::jsonb", purpose.metadata)


@pytest.mark.parametrize("payload", READABLE)
def test_unusual_but_readable(payload: str) -> None:
    assert read_payload(payload).service_type != UNREADABLE_SERVICE_TYPE
