"""Completes the OpenAPI document, and serves a page to read and try it on that needs nothing from
elsewhere.

The framework describes inputs and answers. What it cannot know is added here: how every kind of
request can be refused, and an example of each, as the system itself has answered it.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from taximeter.api.web.errors import error_content
from taximeter.api.web.links import add_links

JSON = "application/json"
ERROR_SCHEMA = {
    "title": "Error",
    "description": "Every refusal. `detail` repeats the message.",
    "type": "object",
    "required": ["error", "detail"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "details"],
            "properties": {
                "code": {"type": "string", "examples": ["INVALID_REQUEST"]},
                "message": {"type": "string"},
                "details": {"type": "object"},
            },
        },
        "detail": {"type": "string"},
    },
}

DESCRIPTION = """\
Amounts of credits are JSON numbers of credits with at most three decimals; money is dollars.

**Sessions** are tokens of the identity provider, as `Authorization: Bearer` or the cookie
`session_token`. **Refusals** all have the shape of *Error*. **Money** changes once per
`Idempotency-Key`. **Limits** are counted per caller; over one, 429 says when to try again.
"""
TAGS = [
    {"name": "system", "description": "Health, without a login"},
    {"name": "session", "description": "Who the caller is, and which organisation pays"},
    {"name": "organizations", "description": "All organisations, their names, and how they end"},
    {"name": "subscriptions", "description": "Plans of organisations"},
    {"name": "credits", "description": "Pools, purchases, allocations"},
    {"name": "usage", "description": "What credits were used for"},
    {"name": "dashboards", "description": "Everything at a glance, for admins"},
    {"name": "user", "description": "What a user has, over all organisations"},
    {"name": "history", "description": "Purchases, subscriptions and invoices"},
    {"name": "members", "description": "Who belongs to an organisation"},
    {"name": "keys", "description": "API keys of gateways, made and taken back by org admins"},
    {"name": "receivers", "description": "Where it is told what has happened: webhooks"},
    {"name": "audit", "description": "Who changed what"},
    {"name": "books", "description": "Whether the books are right, and what waits for somebody"},
    {"name": "prices", "description": "What models cost, and what a usage would"},
    {"name": "upstreams", "description": "Providers and routes"},
    {"name": "llm", "description": "OpenAI's API, charged to the caller's credits"},
]

# status -> (what it means, code, message of its example)
REFUSALS = {
    400: ("What was asked for cannot be done", "INVALID_REQUEST", "new_plan_code: no upgrade"),
    401: ("No valid session", "UNAUTHORIZED", "Log in first: no session token was sent"),
    402: ("Not enough credits", "INSUFFICIENT_CREDITS", "Insufficient organization credits"),
    403: ("The caller may not do this", "PERMISSION_DENIED", "Org admin permission required"),
    404: ("Not there, or not the caller's to see", "NOT_FOUND", "Organization not found"),
    409: ("In conflict with what is there", "ALREADY_EXISTS", "This key was used before"),
    413: ("The body is too large", "PAYLOAD_TOO_LARGE", "The body must be at most 65536 bytes"),
    415: ("The body is no JSON", "UNSUPPORTED_MEDIA_TYPE", "The body must be JSON"),
    421: ("The organization lives in another cell", "WRONG_CELL", "It lives in cell b"),
    422: ("A field is not valid", "VALIDATION_ERROR", "credits: must be more than 0 credits"),
    429: ("Too many requests; see Retry-After", "RATE_LIMITED", "try again in 12 s"),
    502: ("The provider failed", "UPSTREAM_ERROR", "The provider failed"),
    503: ("A part is away; see Retry-After", "SERVICE_UNAVAILABLE", "The database is unavailable"),
    504: ("The provider was silent", "UPSTREAM_ERROR", "The provider did not answer"),
}

# What a parameter means wherever it stands, for those that do not say it themselves.
PARAMETERS = {
    "org_id": "The organisation",
    "user_id": "The user, by the id of the identity provider",
    "model": "The model, by the name that requests use",
    "limit": "How many to answer with at most",
    "offset": "How many to leave out from the start",
    "key_id": "The key, by what stands in front of its secret",
    "include_ended": "Also those that were revoked or have expired",
    "is_active": "Only those that can be spent, or only those that are closed",
    "start_date": "First day, in UTC; 30 days before the last by default",
    "end_date": "Last day, in UTC; today by default",
    "service_type": "Only this kind of service",
    "actor": "Only what this user did",
    "group_by": "One more breakdown, in `groups`",
}


@cache
def examples() -> dict[str, dict[str, Any]]:
    """`METHOD path` -> request and response, as a test has recorded them."""
    text = files("taximeter.api.web").joinpath("openapi_examples.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def example_of(method: str, path: str) -> dict[str, Any]:
    """The example of a route; one for OpenAI's clients has that of the same route below /api."""
    if path.startswith("/v1/"):
        path = f"/api/v1/llm{path.removeprefix('/v1')}"
    return examples().get(f"{method.upper()} {path}", {})


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add refusals and examples to the framework's document, in place."""
    document["components"]["schemas"]["Error"] = ERROR_SCHEMA
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in PARAMETERS:
                    parameter.setdefault("description", PARAMETERS[parameter["name"]])
            _add_refusals(operation, method, path)
            _add_examples(operation, example_of(method, path))
            add_links(document, operation, f"{method.upper()} {path}")
    return document


def _add_refusals(operation: dict[str, Any], method: str, path: str) -> None:
    responses = operation["responses"]
    statuses = {int(status) for status in responses if status.isdigit() and int(status) >= 400}
    has_body = "requestBody" in operation
    if operation.get("security"):
        statuses |= {401, 403, 429, 503}
    if "{" in path:
        statuses |= {404}
    if "{org_id}" in path or "/llm/" in path or path.startswith("/v1/"):
        statuses |= {421}
    if "{org_id}" in path and method != "get":
        statuses |= {409}  # Nothing is changed in an organisation that was deleted.
    if has_body or operation.get("parameters"):
        statuses |= {400, 422}
    if has_body:
        statuses |= {400, 404, 409, 413}
        if "/v1/org-billing" in path or "/v1/auth" in path:
            statuses |= {415}
    for status in sorted(statuses):
        meaning, code, message = REFUSALS[status]
        given = responses.get(str(status), {})
        if status != 422 and "content" in given:
            continue  # Such as the state of the system, which is an answer and no refusal.
        responses[str(status)] = {
            "description": given.get("description", meaning) if status != 422 else meaning,
            "content": {
                JSON: {
                    "schema": {"$ref": "#/components/schemas/Error"},
                    "example": error_content(code, message, {}),
                }
            },
        }


def _add_examples(operation: dict[str, Any], example: dict[str, Any]) -> None:
    if "request" in example:
        operation["requestBody"]["content"][JSON]["example"] = example["request"]
    if "response" in example:
        content = operation["responses"]["200"].setdefault("content", {})
        content.setdefault(JSON, {"schema": {}})["example"] = example["response"]


_PAGE_HEADERS = {
    # The page starts with a script and styles of its own; nothing comes from elsewhere, and no
    # other site may show it in a frame.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; "
    "script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'; object-src 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def serve_docs(app: FastAPI) -> None:
    """Serve /docs with the files of a package: a browser without internet sees it too. Addresses
    are relative, so that it also works below another root.
    """
    assets = StaticFiles(packages=[("fastapi_swagger", "resources")])
    app.mount("/docs/assets", assets, name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title} API",
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon-32x32.png",
            swagger_ui_parameters={"persistAuthorization": True, "filter": True},
        )
        page.headers.update(_PAGE_HEADERS)
        return page
