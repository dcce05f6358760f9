"""Bodies that no client library would send: each is refused by name, and none is a 500."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples_or
from support.sidecar import FUNDS, Caller, calling, problem, served

from taximeter.meter import InvalidRequest, Meter
from taximeter.meter.held_estimates import EstimatedHolds
from taximeter.meter.pricing import Pricer
from taximeter.meter.sidecar import create_sidecar
from taximeter.meter.sidecar.answers import Refusal
from taximeter.meter.sidecar.app import ROUTES
from taximeter.meter.sidecar.body import BODY_BYTES_MAX
from taximeter.meter.sidecar.exact_json import millicredits_of, parse_object
from taximeter.meter.sidecar.fields import FIELDS, amount_of, usage_of
from taximeter.meter.sidecar.model_prices import Prices
from taximeter.meter.wire.limits import AMOUNT_MAX
from taximeter.meter.wire.operations import Op

WHOLE = b'{"org_id":"acme","user_id":"ann","amount_millicredits":1}'
PRICER = Pricer(unknown_model="default")
POSTS = [path for path, method in ROUTES.items() if method == "POST"]


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (b"", "valid JSON"),
        (b" ", "valid JSON"),
        (b"{", "valid JSON"),
        (b"null", "a JSON object"),
        (b"[]", "a JSON object"),
        (b'"x"', "a JSON object"),
        (b"1", "a JSON object"),
        (WHOLE + b"x", "one JSON object, with nothing after it"),
        (WHOLE * 2, "one JSON object, with nothing after it"),
        (b'{"org_id":"acme","org_id":"acme"}', "without duplicate names, but has 'org_id' twice"),
        (b'{"usage":{"metadata":{"a":1,"a":1}}}', "without duplicate names, but has 'a' twice"),
        (b'{"amount_credits":NaN}', "valid JSON, which has no NaN"),
        (b'{"amount_credits":-Infinity}', "valid JSON, which has no -Infinity"),
        (b'{"amount_credits":01}', "valid JSON"),
        (b'{"amount_credits":.5}', "valid JSON"),
        (b"{'org_id':'acme'}", "valid JSON"),
        (b'{"org_id":"a\xff"}', "UTF-8"),
        (b'{"org_id":"\xed\xa0\x80"}', "UTF-8"),
        ('{"org_id":"é"}'.encode("utf-16"), "UTF-8"),
        (b"\xef\xbb\xbf" + WHOLE, "valid JSON"),
        (b'{"org_id":"a\nb"}', "valid JSON"),
        (b"[" * 100_000, "JSON that is nested less deeply"),
        (b'{"a":' * 100_000, "JSON that is nested less deeply"),
        (
            b'{"amount_millicredits":' + b"9" * 5000 + b"}",
            "JSON with integers of at most 4300 digits",
        ),
    ],
    ids=lambda value: str(value[:24]),
)
async def test_malformed_bodies(caller: Caller, body: bytes, limit: str) -> None:
    for path in POSTS:
        status, code, details = problem(await caller.raw(path, body))
        assert (status, code, details["field"]) == (400, "INVALID_REQUEST", "body")
        assert details["limit"].startswith(limit)
    assert await caller.balance() == (FUNDS, 0)


async def test_white_space_around_is_fine(caller: Caller) -> None:
    assert (await caller.raw("/v1/charge", b" \r\n\t" + WHOLE + b" \n")).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "operations"),
        (b'{"operations":[]}', "operations"),
        (b'{"operations":{}}', "operations"),
        (b'{"operations":null}', "operations"),
        (b'{"operations":[' + b"{}," * 500 + b"{}]}", "operations"),
        (b'{"operations":[{},7]}', "operations[1]"),
        (b'{"operations":[{}],"atomic":true}', "atomic"),
    ],
    ids=lambda value: str(value[:24]),
)
async def test_malformed_batches_do_nothing(caller: Caller, body: bytes, field: str) -> None:
    status, code, details = problem(await caller.raw("/v1/batch", body))
    assert (status, code, details["field"]) == (400, "INVALID_REQUEST", field)


async def test_a_batch_of_nonsense_is_answered_one_by_one(caller: Caller) -> None:
    results = await caller.batch(
        {},
        {"op": None},
        {"op": ["charge"]},
        {"op": "batch"},
        {"op": "charge", "org_id": {"a": 1}},
        {"op": "charge", "request_id": [1], "amount_millicredits": 1},
        {"op": "charge", "amount_millicredits": 1},
    )
    assert [result["status"] for result in results] == [400] * 6 + [200]


async def test_a_huge_body_is_cut_off(caller: Caller) -> None:
    expected = {"field": "body", "limit": f"at most {BODY_BYTES_MAX} bytes"}
    response = await caller.raw("/v1/charge", b" " * (BODY_BYTES_MAX + 1))
    assert problem(response) == (413, "PAYLOAD_TOO_LARGE", expected)
    assert response.headers["connection"] == "close"
    assert (await caller.raw("/v1/charge", WHOLE.ljust(BODY_BYTES_MAX))).status_code == 200


async def test_an_endless_chunked_body_is_cut_off(caller: Caller) -> None:
    reader, writer = await connection(caller)
    writer.write(
        b"POST /v1/charge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(17):
        writer.write(chunk)
    async with asyncio.timeout(60):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_a_body_that_breaks_off_charges_nothing(caller: Caller) -> None:
    _, writer = await connection(caller)
    head = b"POST /v1/charge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % (len(WHOLE) + 1) + WHOLE)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await caller.balance() == (FUNDS, 0)


async def test_a_body_in_pieces_is_put_together(caller: Caller) -> None:
    reader, writer = await connection(caller)
    head = b"POST /v1/charge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(WHOLE))
    for byte in WHOLE:
        writer.write(bytes([byte]))
        await writer.drain()
    async with asyncio.timeout(60):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_small_limit_is_kept(meter: Meter) -> None:
    sidecar = create_sidecar(meter, body_bytes_max=1024)
    async with served(sidecar) as url, calling(url) as caller:
        assert (await caller.raw("/v1/charge", WHOLE.ljust(1025))).status_code == 413
        assert (await caller.raw("/v1/charge", WHOLE.ljust(1024))).status_code == 200


async def connection(caller: Caller) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(caller.url)
    return await asyncio.open_connection(parts.hostname, parts.port)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_NAMES = st.sampled_from(
    [
        *("org_id", "user_id", "request_id", "ttl_s", "usage", "op", "operations"),
        *("amount_credits", "amount_millicredits", "model", "tokens", "n", "service_tier"),
        *("prompt_tokens", "max_output_tokens", "images", "plan", "provider", "power_level"),
    ]
)


@settings(max_examples=examples_or(60))
@given(op=st.sampled_from(list(FIELDS)), fields=st.dictionaries(_NAMES, _JSON))
def test_no_field_is_a_defect(op: Op, fields: dict[str, object]) -> None:
    """Whatever the fields hold, reading them ends in an amount or in a refusal by name."""
    try:
        read = parse_object(json.dumps(fields).encode())
        given = amount_of(op, read)
        if given is None:
            given = Prices(PRICER, EstimatedHolds()).charge(read, usage_of(read))
    except (InvalidRequest, Refusal):
        return
    assert 0 <= given[0] <= AMOUNT_MAX


@given(millicredits=st.integers(0, 10**12), zeros=st.integers(0, 5), as_text=st.booleans())
def test_every_amount_survives_the_way_through_credits(
    millicredits: int, zeros: int, as_text: bool
) -> None:
    written = f"{millicredits // 1000}.{millicredits % 1000:03d}" + "0" * zeros
    body = f'{{"a":"{written}"}}' if as_text else f'{{"a":{written}}}'
    assert millicredits_of(parse_object(body.encode())["a"], "a") == millicredits
