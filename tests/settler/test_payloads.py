"""An unreadable payload never loses its charge, and nothing that we pass on is refused by
Postgres.
"""

from __future__ import annotations

import json

import asyncpg
import pytest

from taximeter.meter.models import Usage
from taximeter.settler.payloads import UNREADABLE_SERVICE_TYPE, read_payload


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


UNREADABLE = [
    "no json",
    "[]",
    '"text"',
    '{"type":7}',
    '{"type":""}',
    '{"type":"' + "x" * 65 + '"}',
    '{"type":"a","name":"' + "x" * 256 + '","meta":{}}',
    '{"type":"a","name":"b","meta":[]}',
    '{"type":"a","name":"b","meta":{"x":NaN}}',
    '{"type":"a","name":"b","meta":{"x":-Infinity}}',
    '{"type":"a","name":"b","meta":{"x":1e999999}}',
    '{"type":"a","name":"b","meta":{"x":"\\u0000"}}',
    '{"type":"a","name":"b","meta":{"\\u0000":1}}',
    '{"type":"a\\u0000","name":"b","meta":{}}',
    '{"type":"a","name":"b","meta":{"x":"\\ud800"}}',
    '{"type":"a","name":"b","meta":{"x":1},"meta":{}}}',
    '{"type":"a","name":"b","meta":' + '{"a":' * 600 + "1" + "}" * 600 + "}",
    "\x00",
]
READABLE = [
    '{"type":"a","name":"b","meta":{"x":"\\\\u0000"}}',
    '{"type":"a","name":"b","meta":{"x":"\\ud83d\\ude00"}}',
    '{"type":"a","name":"b","meta":{"x":1e300,"y":' + "9" * 4000 + "}}",
    '{"name":"b"}',
    '{"type":"a","name":"b","meta":{},"more":1}',
]


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
