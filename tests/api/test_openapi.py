"""The OpenAPI document says everything about every route, and its examples are the system's own
answers. `WRITE_DOCS=1 make test ARGS=tests/api/test_openapi.py` records them again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.world import BILLING, World

from taximeter.api.app import create_app
from taximeter.api.settings.api import ApiSettings
from taximeter.api.web.openapi import example_of, examples
from taximeter.settler.moves.relay import relay

FILE = Path(__file__).parents[2] / "api" / "web" / "openapi_examples.json"
ACME = f"{BILLING}/credits/acme"
ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
SUBSCRIBE = {
    "org_id": "acme",
    "plan_code": "professional",
    "org_name": "Acme Inc.",
    "billing_email": "billing@acme.example",
    "initial_credits": 10000.0,
    "user_id": "boss",
}

# (method, template, path, who, body), in an order in which every one of them succeeds.
DAY: list[tuple[str, str, str, str, Any]] = [
    ("GET", "/api/v1/system/status", "", "", None),
    ("POST", f"{BILLING}/subscriptions", "", "root", SUBSCRIBE),
    ("GET", f"{BILLING}/subscriptions/{{org_id}}", f"{BILLING}/subscriptions/acme", "boss", None),
    (
        "POST",
        f"{BILLING}/orgs/{{org_id}}/members",
        f"{BILLING}/orgs/acme/members",
        "boss",
        {"user_id": "ann", "role": "member"},
    ),
    ("GET", f"{BILLING}/invitations", "", "ann", None),
    (
        "POST",
        f"{BILLING}/invitations/{{org_id}}/accept",
        f"{BILLING}/invitations/acme/accept",
        "ann",
        None,
    ),
    (  # One of another organisation, which ann does not want.
        "POST",
        f"{BILLING}/subscriptions",
        "",
        "root",
        {**SUBSCRIBE, "org_id": "other", "org_name": "Other Ltd.", "user_id": "their-boss"},
    ),
    (
        "POST",
        f"{BILLING}/orgs/{{org_id}}/members",
        f"{BILLING}/orgs/other/members",
        "their-boss",
        {"user_id": "ann", "role": "member"},
    ),
    (
        "DELETE",
        f"{BILLING}/invitations/{{org_id}}",
        f"{BILLING}/invitations/other",
        "ann",
        None,
    ),
    ("GET", f"{BILLING}/orgs/{{org_id}}/members", f"{BILLING}/orgs/acme/members", "boss", None),
    (
        "POST",
        f"{BILLING}/credits/{{org_id}}/add",
        f"{ACME}/add",
        "root",
        {"credits": 5000.0, "purchase_amount": 45.0, "stripe_payment_id": "pi_3Oa1"},
    ),
    (
        "POST",
        f"{BILLING}/credits/{{org_id}}/allocate",
        f"{ACME}/allocate",
        "boss",
        {
            "user_id": "ann",
            "credits": 2000.0,
            "expires_at": "2999-12-31T00:00:00Z",
            "auto_renew": True,
        },
    ),
    (
        "POST",
        f"{BILLING}/credits/{{org_id}}/transfer",
        f"{ACME}/transfer",
        "boss",
        {"from_user_id": "ann", "to_user_id": "boss", "credits": 500.0},
    ),
    (
        "POST",
        f"{BILLING}/credits/{{org_id}}/deallocate",
        f"{ACME}/deallocate",
        "boss",
        {"user_id": "ann", "credits": 250.0},
    ),
    ("GET", f"{BILLING}/credits/{{org_id}}/moves", f"{ACME}/moves", "boss", None),
    (
        "POST",
        f"{BILLING}/orgs/{{org_id}}/keys",
        f"{BILLING}/orgs/acme/keys",
        "boss",
        {"name": "gateway", "operations": ["reserve", "commit", "release"]},
    ),
    ("GET", f"{BILLING}/orgs/{{org_id}}/keys", f"{BILLING}/orgs/acme/keys", "boss", None),
    (
        "DELETE",
        f"{BILLING}/orgs/{{org_id}}/keys/{{key_id}}",
        f"{BILLING}/orgs/acme/keys/KEY_ID",
        "boss",
        None,
    ),
    *(
        (
            method,
            f"{BILLING}/{owner}/receivers{'/{receiver_id}' if one else ''}{rest}",
            f"{BILLING}/{of}/receivers{'/RECEIVER_ID' if one else ''}{rest}",
            who,
            body,
        )
        for owner, of, who in (
            ("orgs/{org_id}", "orgs/acme", "boss"),
            ("system", "system", "root"),
        )
        for method, one, rest, body in (
            ("POST", False, "", {"name": "billing", "url": "https://hooks.example/taximeter"}),
            ("GET", False, "", None),
            ("PATCH", True, "", {"types": ["pool.low", "invoice.failed"], "percents": [90]}),
            ("POST", True, "/secret", None),
            ("POST", True, "/test", None),
            ("POST", True, "/resend", {"since": "2026-11-23T00:00:00Z"}),
            ("DELETE", True, "", None),
        )
    ),
    (
        "POST",
        f"{BILLING}/users/{{user_id}}/credits",
        f"{BILLING}/users/ann/credits",
        "root",
        {"credits": 100.0, "purchase_amount": 10.0},
    ),
    ("GET", "/api/v1/auth/user", "", "ann", None),
    ("PUT", "/api/v1/auth/user/default-organization", "", "ann", {"org_id": "acme"}),
    ("GET", f"{BILLING}/credits/{{org_id}}", ACME, "ann", None),
    ("GET", f"{BILLING}/credits/{{org_id}}/allocations", f"{ACME}/allocations", "boss", None),
    ("POST", "/api/v1/llm/chat/completions", "", "ann", ASK),
    ("GET", "/api/v1/llm/requests/{request_id}", "/api/v1/llm/requests/LAST", "ann", None),
    ("GET", "/api/v1/llm/models", "", "ann", None),
    ("GET", "/api/v1/llm/models/{model}", "/api/v1/llm/models/gpt-4o-mini", "ann", None),
    (
        "GET",
        f"{BILLING}/credits/{{org_id}}/usage",
        f"{ACME}/usage?group_by=model",
        "boss",
        None,
    ),
    (
        "GET",
        f"{BILLING}/orgs/{{org_id}}/audit",
        f"{BILLING}/orgs/acme/audit?action=org.credits.purchased",
        "boss",
        None,
    ),
    ("GET", f"{BILLING}/plans", "", "ann", None),
    ("GET", f"{BILLING}/orgs", f"{BILLING}/orgs?search=acme&sort=name&order=asc", "root", None),
    ("GET", f"{BILLING}/orgs/{{org_id}}", f"{BILLING}/orgs/acme", "boss", None),
    (
        "PATCH",
        f"{BILLING}/orgs/{{org_id}}",
        f"{BILLING}/orgs/acme",
        "boss",
        {"org_name": "Acme & Sons", "billing_email": "money@acme.example"},
    ),
    (
        "PATCH",
        f"{BILLING}/credits/{{org_id}}/allocations/{{user_id}}",
        f"{ACME}/allocations/ann",
        "boss",
        {"expires_at": "2999-06-30T00:00:00Z", "auto_renew": False},
    ),
    (
        "POST",
        f"{BILLING}/credits/{{org_id}}/refund",
        f"{ACME}/refund",
        "root",
        {"user_id": "ann", "credits": 2.5, "reason": "The provider was down"},
    ),
    (
        "POST",
        f"{BILLING}/credits/{{org_id}}/adjust",
        f"{ACME}/adjust",
        "root",
        {"credits": -100.0, "reason": "Bought twice by mistake"},
    ),
    (
        "PUT",
        f"{BILLING}/credits/{{org_id}}/monthly-refresh",
        f"{ACME}/monthly-refresh",
        "root",
        {"credits": 1000.0},
    ),
    ("GET", f"{BILLING}/credits/{{org_id}}/requests", f"{ACME}/requests?limit=1", "boss", None),
    (
        "GET",
        f"{BILLING}/credits/{{org_id}}/requests/{{request_id}}",
        f"{ACME}/requests/CHARGED",
        "boss",
        None,
    ),
    ("GET", f"{BILLING}/credits/{{org_id}}/holds", f"{ACME}/holds", "boss", None),
    ("GET", f"{BILLING}/credits/{{org_id}}/live", f"{ACME}/live?user=ann", "boss", None),
    (
        "GET",
        f"{BILLING}/credits/{{org_id}}/usage/series",
        f"{ACME}/usage/series?by=model&step=month",
        "boss",
        None,
    ),
    (
        "GET",
        f"{BILLING}/prices",
        f"{BILLING}/prices?search=openai/gpt-4o-mini&limit=1",
        "ann",
        None,
    ),
    (
        "GET",
        f"{BILLING}/prices/quote",
        f"{BILLING}/prices/quote?model=gpt-4o-mini&input=1200&output=300&cache_read=800",
        "ann",
        None,
    ),
    ("GET", f"{BILLING}/system/audit", f"{BILLING}/system/audit?limit=1", "root", None),
    ("GET", f"{BILLING}/system/books", "", "root", None),
    ("GET", f"{BILLING}/system/dead-letters", "", "root", None),
    ("GET", f"{BILLING}/system/live", "", "root", None),
    ("GET", f"{BILLING}/system/upstreams", "", "root", None),
    (
        "POST",
        f"{BILLING}/billing/{{org_id}}/invoices",
        f"{BILLING}/billing/acme/invoices",
        "root",
        {"lago_invoice_id": "inv-2026-11", "status": "failed", "amount": 49.0},
    ),
    (
        "GET",
        f"{BILLING}/billing/{{org_id}}/invoices",
        f"{BILLING}/billing/acme/invoices",
        "boss",
        None,
    ),
    (
        "PUT",
        f"{BILLING}/orgs/{{org_id}}/suspension",
        f"{BILLING}/orgs/acme/suspension",
        "root",
        {"suspended": False, "reason": "The invoice is paid"},
    ),
    ("GET", f"{BILLING}/billing/user", "", "ann", None),
    ("GET", f"{BILLING}/billing/org/{{org_id}}", f"{BILLING}/billing/org/acme", "boss", None),
    ("GET", f"{BILLING}/billing/system", "", "root", None),
    (
        "PUT",
        f"{BILLING}/subscriptions/{{org_id}}/upgrade",
        f"{BILLING}/subscriptions/acme/upgrade",
        "boss",
        {"new_plan_code": "enterprise", "effective_immediately": True},
    ),
    ("GET", f"{BILLING}/{{org_id}}/history", f"{BILLING}/acme/history", "boss", None),
    (
        "GET",
        f"{BILLING}/billing/{{org_id}}/history",
        f"{BILLING}/billing/acme/history?event_type=credits_purchased",
        "boss",
        None,
    ),
    (
        "DELETE",
        f"{BILLING}/orgs/{{org_id}}/members/{{user_id}}",
        f"{BILLING}/orgs/acme/members/ann",
        "boss",
        None,
    ),
    (
        "DELETE",
        f"{BILLING}/subscriptions/{{org_id}}",
        f"{BILLING}/subscriptions/acme",
        "boss",
        None,
    ),
    (
        "POST",
        f"{BILLING}/subscriptions/{{org_id}}/resume",
        f"{BILLING}/subscriptions/acme/resume",
        "boss",
        None,
    ),
    (
        "POST",
        f"{BILLING}/orgs/{{org_id}}/delete",
        f"{BILLING}/orgs/acme/delete",
        "root",
        {"reason": "The customer has asked for it", "confirm_org_id": "acme"},
    ),
]

LETTER = {
    "id": 1,
    "at": "2026-11-23T12:00:00Z",
    "shard": 0,
    "epoch": 1,
    "seq": 17,
    "reason": "unknown_organization",
    "detail": "no organisation has this id",
    "org_id": "acme",
    "user_id": "ann",
    "request_id": "req-17",
    "credits": 0.25,
    "raw": "commit\tacme/ann\tacme/req-17\t250\t500\t-\t",
    "state": "charged",
    "note": "It was made an hour too late",
    "answered_by": "root",
    "answered_at": "2026-11-23T13:00:00Z",
}

# Answers of providers in OpenAI's shapes, which the simulated one does not give, and others that
# need something to go wrong first.
BY_HAND: dict[str, dict[str, Any]] = {
    **{
        f"POST {BILLING}/system/dead-letters/{{letter_id}}/{path}": {
            "request": {"note": LETTER["note"]},
            "response": LETTER | {"state": state},
        }
        for path, state in (("acknowledge", "acknowledged"), ("retry", "charged"))
    },
    f"POST {BILLING}/system/lost-events/{{shard}}/{{epoch}}/{{seq_first}}/acknowledge": {
        "request": {"note": "Redis was started from a copy of an hour before"},
        "response": {
            "shard": 0,
            "epoch": 1,
            "seq_first": 17,
            "seq_last": 19,
            "events": 3,
            "found_at": "2026-11-23T12:00:00Z",
            "acknowledged_at": "2026-11-23T13:00:00Z",
            "acknowledged_by": "root",
            "note": "Redis was started from a copy of an hour before",
        },
    },
    **{
        f"GET {BILLING}/{owner}/receivers/{{receiver_id}}/deliveries": {
            "response": {
                "deliveries": [
                    {
                        "delivery_id": 7,
                        "notice_id": "7a0c1f9e-0d4b-4c54-9d0e-2f6f4f0f5a11",
                        "type": "pool.low",
                        "org_id": "acme",
                        "at": "2026-11-23T12:00:00Z",
                        "state": "delivered",
                        "tries": 2,
                        "due_at": "2026-11-23T12:00:05Z",
                        "ended_at": "2026-11-23T12:00:06Z",
                        "log": [
                            {
                                "at": "2026-11-23T12:00:00Z",
                                "status": 500,
                                "error": None,
                                "seconds": 0.2,
                            },
                            {
                                "at": "2026-11-23T12:00:06Z",
                                "status": 204,
                                "error": None,
                                "seconds": 0.1,
                            },
                        ],
                    }
                ],
                "limit": 50,
                "next": None,
            }
        }
        for owner in ("orgs/{org_id}", "system")
    },
    "POST /api/v1/llm/completions": {
        "request": {"model": "gpt-3.5-turbo-instruct", "prompt": "Say hello", "max_tokens": 8},
        "response": {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1_700_000_000,
            "model": "gpt-3.5-turbo-instruct",
            "choices": [{"index": 0, "text": "Hello!", "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
        },
    },
    "POST /api/v1/llm/embeddings": {
        "request": {"model": "text-embedding-3-small", "input": "Hello"},
        "response": {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.012, -0.034]}],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        },
    },
    "POST /api/v1/llm/images/generations": {
        "request": {"model": "gpt-image-1", "prompt": "A taxi", "n": 1, "size": "1024x1024"},
        "response": {
            "created": 1_700_000_000,
            "data": [{"b64_json": "iVBORw0KGgo="}],
            "usage": {"input_tokens": 3, "output_tokens": 4160, "total_tokens": 4163},
        },
    },
    "POST /api/v1/llm/responses": {
        "request": {"model": "gpt-4o-mini", "input": "Say hello", "max_output_tokens": 16},
        "response": {
            "id": "resp_1",
            "object": "response",
            "status": "completed",
            "model": "gpt-4o-mini",
            "output": [
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "Hello!"}],
                }
            ],
            "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        },
    },
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(ApiSettings(dev_mode=True)).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_route_is_described(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    summaries = []
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        summaries.append(operation["summary"])
        assert operation["summary"][0].isupper(), where
        assert len(operation["description"]) > 20, where
        assert set(operation["tags"]) <= tags, where
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (where, parameter["name"])
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)


def test_every_route_says_how_to_log_in(document: dict[str, Any]) -> None:
    schemes = set(document["components"]["securitySchemes"])
    for _, path, operation in operations(document):
        if path == "/api/v1/system/status":
            assert "security" not in operation
            continue
        named = {name for one in operation["security"] for name in one}
        assert named, path
        assert named <= schemes


def test_every_route_says_how_it_refuses(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        statuses = {int(status) for status in operation["responses"] if int(status) >= 400}
        if operation.get("security"):
            assert {401, 403, 429, 503} <= statuses, (method, path)
        if "requestBody" in operation:
            assert {400, 409, 413, 422} <= statuses, (method, path)
        if "{" in path:
            assert 404 in statuses, (method, path)
        for status in statuses - {503}:
            content = operation["responses"][str(status)]["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Error"}, (method, path)
            check(document, content["schema"], content["example"])


def test_every_route_has_examples_that_its_schema_takes(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        if path.endswith((".csv", "/exports/{kind}")):
            continue  # A table, whose columns its description names.
        assert example_of(method, path), f"{where} has no example: add it to DAY"
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            assert "example" in content, where
            check(document, content["schema"], content["example"])
        content = operation["responses"]["200"]["content"]["application/json"]
        assert "example" in content, where
        check(document, content["schema"], content["example"])
    known = {f"{method} {path}" for method, path, _ in operations(document)}
    assert set(examples()) <= known, "an example of a route that is gone"


def check(document: dict[str, Any], schema: dict[str, Any], example: Any) -> None:
    jsonschema.validate(example, {**schema, "components": document["components"]})


async def test_examples_are_what_the_system_answers(world: World) -> None:
    """Every route of a day once: the answer has the fields of the example, and of no other kind."""
    found: dict[str, dict[str, Any]] = {}
    last_id = charged_id = key_id = receiver_id = ""
    for method, template, path, who, body in DAY:
        path = (path or template).replace("LAST", last_id).replace("KEY_ID", key_id)
        path = path.replace("RECEIVER_ID", receiver_id).replace("CHARGED", charged_id)
        headers = world.auth(who, system_admin=who == "root") if who else {}
        answer = await world.client.request(method, path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        last_id = answer.headers.get("X-Request-Id", last_id)
        charged_id = last_id if "/chat/" in template else charged_id
        key_id = answer.json().get("api_key", {}).get("key_id", key_id)
        receiver_id = answer.json().get("receiver", {}).get("receiver_id", receiver_id)
        await relay(world.settling)
        await world.settle()
        one: dict[str, Any] = {} if body is None else {"request": body}
        found[f"{method} {template}"] = {**one, "response": tidy(answer.json())}
    if os.environ.get("WRITE_DOCS"):
        text = json.dumps({**found, **BY_HAND}, indent=1, ensure_ascii=False)
        FILE.write_text(f"{text}\n", encoding="utf-8")
        examples.cache_clear()
    for name, one in found.items():
        assert shape(one) == shape(examples()[name]), name


UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


KEY = {
    "key": "tm_a1B2c3D4e5F6_and-its-secret",
    "key_id": "a1B2c3D4e5F6",
    "last_four": "cret",
    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}


def tidy(value: Any) -> Any:
    """Without what would differ at every recording: ids, times, days; and without any secret."""
    if isinstance(value, dict):
        return {key: KEY.get(key) or tidy(one) for key, one in value.items()}
    if isinstance(value, list):
        return [tidy(one) for one in value]
    if isinstance(value, str) and UUID.match(value):
        return "7a0c1f9e-0d4b-4c54-9d0e-2f6f4f0f5a11"
    if isinstance(value, str):
        value = re.sub(r"^req-[0-9a-f]{32}$", f"req-{'0' * 32}", value)
        value = re.sub(r"^20\d\d-\d\d-\d\dT[\d:.]+(Z|\+00:00)$", "2026-11-23T12:00:00Z", value)
        return re.sub(r"^20\d\d-\d\d-\d\d$", "2026-11-23", value)
    return value


def shape(value: Any) -> Any:
    """The fields of an answer, without their values: null, numbers and texts are all leaves."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value[:1]]
    return None


async def test_the_page_needs_nothing_from_elsewhere(world: World) -> None:
    page = await world.client.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r"(?:src|href)=\"([^\"]+)\"|url: '([^']+)'", page.text)
    linked = [first or second for first, second in addresses]
    assert len(linked) == 4, linked
    for address in linked:
        assert not address.startswith(("http", "//")), address
        answer = await world.client.get(f"/{address}")
        assert answer.status_code == 200, address
        assert len(answer.content) > 500
    assert (await world.client.get("/openapi.json")).json()["openapi"].startswith("3.")


def test_every_change_of_an_organization_may_find_it_deleted() -> None:
    paths = create_app(ApiSettings(dev_mode=True)).openapi()["paths"]
    changes = [
        (path, method, one["responses"])
        for path, operations in paths.items()
        for method, one in operations.items()
        if "{org_id}" in path and method != "get"
    ]
    assert changes
    assert not [(path, method) for path, method, answers in changes if "409" not in answers]
