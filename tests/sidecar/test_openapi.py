"""The OpenAPI document says what the sidecar does: routes, fields, codes, and real answers."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from support.shard import ScriptedShard
from support.sidecar import FUNDS, Caller

from taximeter.meter.pricing import TOKENS_MAX
from taximeter.meter.sidecar import batch, forward_auth
from taximeter.meter.sidecar import exact_json as exact
from taximeter.meter.sidecar import model_prices as prices
from taximeter.meter.sidecar.app import OPEN_ROUTES, OPERATION_ROUTES, ROUTES, openapi_document
from taximeter.meter.sidecar.fields import FIELDS
from taximeter.meter.wire import limits
from taximeter.meter.wire.http_refusals import HTTP_REFUSALS
from taximeter.meter.wire.refusals import REFUSALS

DOCUMENT: dict[str, Any] = json.loads(openapi_document())
SCHEMAS = DOCUMENT["components"]["schemas"]


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method.upper(), operation


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        found: Any = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


def test_the_document_is_whole() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    for node in nodes(DOCUMENT):
        resolve(node)  # Raises for a reference to nothing.
    for name, schema in SCHEMAS.items():
        Draft202012Validator.check_schema(schema)
        assert re.fullmatch(r"[A-Za-z]+", name)
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    for path, method, operation in operations():
        assert operation["summary"], path
        for status, response in operation["responses"].items():
            assert resolve(response)["description"], (path, status)
        if method == "POST" and path not in forward_auth.ROUTES:
            content = operation["requestBody"]["content"]["application/json"]
            validator(content["schema"]).validate(content["example"])


def test_routes_are_those_of_the_application() -> None:
    documented = {path: method for path, method, _ in operations()}
    assert {path: documented.pop(path, None) for path in ROUTES} == ROUTES
    assert tuple(documented) == forward_auth.ROUTES
    open_to_all = {path for path, _, operation in operations() if operation.get("security") == []}
    assert open_to_all == set(OPEN_ROUTES)


@pytest.mark.parametrize("path", OPERATION_ROUTES)
def test_fields_are_those_of_the_application(path: str) -> None:
    op = OPERATION_ROUTES[path]
    body = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = resolve(body)
    assert set(schema["properties"]) == FIELDS[op]
    assert schema["additionalProperties"] is False
    batched = SCHEMAS["Batch"]["properties"]["operations"]["items"]["oneOf"]
    [found] = [one for one in batched if one["properties"]["op"]["const"] == op]
    same = copy.deepcopy(found)
    del same["properties"]["op"]
    same["required"].remove("op")
    assert same == schema


def test_codes_are_those_of_the_application() -> None:
    known = set(SCHEMAS["Error"]["properties"]["error"]["properties"]["code"]["enum"])
    rows = [*REFUSALS.values(), *HTTP_REFUSALS.values()]
    table = {said.code for row in rows for said in (row.sidecar, row.gate) if said is not None}
    assert table == known
    _, refused = SCHEMAS["BatchResults"]["properties"]["results"]["items"]["oneOf"]
    assert refused["properties"]["error"] == SCHEMAS["Error"]["properties"]["error"]


def test_limits_are_those_of_the_application() -> None:
    assert SCHEMAS["Millicredits"]["maximum"] == limits.AMOUNT_MAX
    assert SCHEMAS["Credits"]["oneOf"][0]["maximum"] == exact.CREDITS_MAX
    assert SCHEMAS["TokenCount"]["maximum"] == TOKENS_MAX
    assert SCHEMAS["Ttl"]["maximum"] * 1000 == limits.TTL_MS_MAX
    assert SCHEMAS["Reserve"]["properties"]["n"]["maximum"] == prices.ANSWERS_MAX
    assert SCHEMAS["Batch"]["properties"]["operations"]["maxItems"] == batch.OPERATIONS_MAX
    available = SCHEMAS["Receipt"]["properties"]["available_millicredits"]
    assert available["maximum"] == -available["minimum"] == limits.BALANCE_MAX
    for schema, check in (
        ("OrgId", limits.check_org_id),
        ("RequestId", limits.check_request_id),
    ):
        for text in ("a", "a" * 129, "", "-a", "a/b", "a b", "a@b", "é", "a\n"):
            fits = bool(re.search(SCHEMAS[schema]["pattern"].replace("$", r"\Z"), text))
            try:
                check(text)
            except ValueError:
                assert not fits, (schema, text)
            else:
                assert fits, (schema, text)


async def test_real_answers_fit(caller: Caller, shard: ScriptedShard) -> None:
    """Every answer of a session with successes and refusals has the form that is promised."""
    answers: list[tuple[str, httpx.Response]] = []

    async def post(op: str, **fields: Any) -> None:
        answers.append((f"/v1/{op}", await caller.post(op, **fields)))

    async def get(path: str, query: str = "") -> None:
        answers.append((path, await caller.client.get(path + query)))

    await post("reserve", request_id="r1", amount_credits=1.5)
    await post("reserve", request_id="r1", amount_credits=1.5)
    await post("touch", request_id="r1", amount_credits="0.5")
    await post("commit", request_id="r1", amount_millicredits=600)
    await post("commit", request_id="r1", amount_millicredits=600)
    await post("commit", request_id="r1", amount_millicredits=1)
    await post("reserve", request_id="r2", amount_millicredits=FUNDS - 600)
    await post("charge", amount_millicredits=1)
    await post("release", request_id="r2")
    await post("release", request_id="r3")
    await post("charge", amount_millicredits=FUNDS + 1)
    await post("charge", amount_millicredits=1, user_id="bob")
    await post("charge", amount="x")
    await post("charge", model="nobody's", tokens={"prompt_tokens": 1, "completion_tokens": 1})
    await get("/v1/balance", "?org_id=acme&user_id=ann")
    await get("/v1/balance", "?org_id=acme&user_id=bob")
    await get("/v1/operations", "?org_id=acme&request_id=r1")
    await get("/v1/operations", "?org_id=acme&request_id=r9")
    for path in OPEN_ROUTES:
        await get(path)
    both = [{"op": "charge", "amount_millicredits": 1}, {"op": "charge"}]
    body = {"operations": [{"org_id": "acme", "user_id": "ann", **one} for one in both]}
    answers.append(("/v1/batch", await caller.raw("/v1/batch", json.dumps(body).encode())))
    answers.append(("/v1/batch", await caller.raw("/v1/batch", b"{")))
    answers.append(("/v1/charge", await caller.client.post("/v1/charge", content=b"{}")))
    answers.append(("/v1/balance", await caller.client.post("/v1/balance")))
    await shard.redis.hset(shard.keys.meta, "epoch", "fenced")
    await get("/readyz")

    seen = set()
    for path, response in answers:
        [operation] = [one for where, _, one in operations() if where == path]
        status = str(response.status_code)
        assert status in operation["responses"], (path, response.text)
        promised = resolve(operation["responses"][status])
        [(kind, content)] = promised["content"].items()
        assert response.headers["content-type"].startswith(kind)
        answer = response.json() if kind == "application/json" else response.text
        validator(content["schema"]).validate(answer)
        for name in promised.get("headers", {}):
            assert name in response.headers, (path, status)
        seen.add(int(status))
    assert seen == {200, 400, 402, 404, 405, 409, 415, 429, 503}


def test_the_plain_install_is_enough() -> None:
    """Importing the sidecar imports nothing of the server, and no price list."""
    code = (
        "import sys, taximeter.meter.sidecar\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    imported = set(finished.stdout.split())
    assert {"taximeter", "redis"} <= imported
    assert imported.isdisjoint(
        {"asyncpg", "click", "fastapi", "genai_prices", "httptools", "httpx", "pydantic", "uvicorn"}
    )
