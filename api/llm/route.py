"""The LLM route in the framework's terms: how it is described in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from starlette.types import Receive, Scope, Send

from taximeter.api.exact import ShortText
from taximeter.api.llm.endpoint import API_PATH, CLIENTS_PATH

router = APIRouter(tags=["llm"])

OrgHeader = Annotated[
    ShortText | None, Header(alias="X-Org-Id", description="Which organisation pays")
]
KeyHeader = Annotated[
    ShortText | None,
    Header(alias="Idempotency-Key", description="The same key calls upstream at most once"),
]
_DOCS: dict[str, Any] = {
    "summary": "Chat completion, charged to the caller's credits",
    "response_model": None,
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object", "required": ["model", "messages"]}
                }
            },
        }
    },
    "responses": {
        402: {"description": "Not enough credits; nothing was sent upstream"},
        409: {"description": "The idempotency key was used before"},
        429: {"description": "Credits are held by requests in progress"},
        502: {"description": "The provider failed; nothing was charged"},
        503: {"description": "The meter or the provider is not available"},
    },
}


class _ToEndpoint(Response):
    """Hands the request to the endpoint, whose answer this becomes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["app"].completions(scope, receive, send)


# The application takes POST on these paths off before the framework sees it. These two describe it,
# and serve it where the paths stand below another root.


@router.post(API_PATH, **_DOCS)
async def chat_completions(
    x_org_id: OrgHeader = None, idempotency_key: KeyHeader = None
) -> Response:
    """The upstream's answer, unchanged, with the cost in headers. Takes OpenAI's body."""
    return _ToEndpoint()


@router.post(CLIENTS_PATH, **_DOCS)
async def chat_completions_for_clients(
    x_org_id: OrgHeader = None, idempotency_key: KeyHeader = None
) -> Response:
    """The same for OpenAI's clients: `base_url` is `.../v1`, `api_key` a session token."""
    return _ToEndpoint()
