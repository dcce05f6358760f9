"""Describes the LLM route in the framework's terms, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from starlette.types import Receive, Scope, Send

from taximeter.api.llm.endpoint import SURFACE_OF
from taximeter.api.web.json_numbers import ShortText

router = APIRouter(tags=["llm"])

OrgHeader = Annotated[
    ShortText | None, Header(alias="X-Org-Id", description="Which organisation pays")
]
UserHeader = Annotated[
    ShortText | None,
    Header(alias="X-User-Id", description="With an API key for any user: whom it acts for"),
]
KeyHeader = Annotated[
    ShortText | None,
    Header(alias="Idempotency-Key", description="The same key calls upstream at most once"),
]
_NEEDED = {
    "/chat/completions": ["model", "messages"],
    "/completions": ["model", "prompt"],
    "/embeddings": ["model", "input"],
    "/images/generations": ["model", "prompt"],
    "/responses": ["model", "input"],
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    402: {"description": "Not enough credits; nothing was sent upstream"},
    404: {"description": "No route serves the model, or the organisation is not the caller's"},
    409: {"description": "The idempotency key was used before"},
    429: {"description": "Credits are held by requests in progress"},
    502: {"description": "The provider failed; nothing was charged"},
    503: {"description": "The meter or the provider is not available"},
    504: {"description": "The provider was silent; nothing was charged"},
}


class _ToEndpoint(Response):
    """Hands the request to the endpoint, whose answer this becomes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["app"].llm(scope, receive, send)


async def _forward(
    x_org_id: OrgHeader = None, x_user_id: UserHeader = None, idempotency_key: KeyHeader = None
) -> Response:
    """OpenAI's route: takes its body, and gives the upstream's answer unchanged with the cost in
    headers, or in the last event of a stream. For OpenAI's clients `base_url` is `.../v1`, and
    `api_key` a session token or an API key.
    """
    return _ToEndpoint()


# The application takes POST on these paths off before the framework sees it. These describe it, and
# serve it where the paths stand below another root.
for _path, _surface in SURFACE_OF.items():
    _schema = {"type": "object", "required": _NEEDED[_surface.path]}
    router.add_api_route(
        _path,
        _forward,
        methods=["POST"],
        summary=f"OpenAI's {_surface.path}, charged to the caller's credits",
        response_model=None,
        operation_id=_path.strip("/").replace("/", "_"),
        responses=_RESPONSES,
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": _schema}}}
        },
    )
