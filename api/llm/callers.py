"""Finds out who calls the LLM routes: by a session, or by an API key."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.types import Scope

from taximeter.api.access.api_keys import KeyStore
from taximeter.api.access.key_text import PREFIX
from taximeter.api.llm.services import LlmServices
from taximeter.api.running.dependencies import (
    bearer_needed,
    bearer_token,
    cookie_token,
    refuse_repeated,
)
from taximeter.api.web.errors import ApiError, validation_refusal
from taximeter.api.web.json_numbers import ShortText
from taximeter.meter import InvalidRequest
from taximeter.meter.wire.limits import check_user_id

API_ROOT = "/api/v1/llm"
CLIENTS_ROOT = "/v1"
_TEXT: TypeAdapter[str] = TypeAdapter(ShortText)


async def get_caller(request: Request) -> tuple[str, str | None]:
    """Find out who asks for a read beside the endpoint, and count it. Raises ApiError."""
    services: LlmServices = request.app.state.services
    refuse_repeated(request.scope["headers"])
    headers: dict[bytes, bytes] = dict(reversed(request.scope["headers"]))
    user_id, org_id, _ = await caller_of(services, request.scope, headers)
    await services.limiter.admit("reads", user_id)
    return user_id, org_id


async def caller_of(
    services: LlmServices, scope: Scope, headers: dict[bytes, bytes]
) -> tuple[str, str | None, str | None]:
    """Find out who asks, the organisation that is to pay if that is decided already (by the caller,
    or by the API key), and the id of the API key if it is one. The path for OpenAI's clients takes
    no cookie: no browser is meant to use it. Raises ApiError 401, 403 or 422.
    """
    org_header = text_header(headers, b"x-org-id", "X-Org-Id")
    header = headers.get(b"authorization")
    token = bearer_token(None if header is None else header.decode("latin-1"))
    if token is None:
        if API_ROOT not in scope["path"]:
            raise bearer_needed()
        token = await cookie_token(Request(scope), services)
    elif token.startswith(PREFIX):
        user_header = text_header(headers, b"x-user-id", "X-User-Id")
        return await _key_caller(services.keys, token, user_header, org_header)
    principal = await services.verifier.verify(token)
    return principal.user_id, org_header, None


async def _key_caller(
    keys: KeyStore, key: str, user_header: str | None, org_header: str | None
) -> tuple[str, str, str]:
    """The user that the key acts for, the organisation that pays, and the key's id. Raises ApiError
    401, 403 or 422, and asyncpg errors when Postgres does not answer.

    A key for any user needs `X-User-Id`. That the user is an active member is checked where the
    organisation's credits are, as for a session.
    """
    text = key.encode("utf-8", "surrogatepass")
    grant = keys.known(text) or await keys.find(text)
    if grant is None:
        raise ApiError(401, "The API key is not valid", headers={"WWW-Authenticate": "Bearer"})
    if "llm" not in grant.operations:
        raise ApiError(403, "This API key is not for the LLM route", details={"field": "key"})
    if org_header not in (None, grant.org_id):
        raise ApiError(
            403, "This API key is for another organization", details={"field": "X-Org-Id"}
        )
    user_id = grant.user_id or user_header
    if user_id is None:
        raise ApiError(
            422,
            "X-User-Id: name the user that this API key is to act for",
            details={"fields": [{"field": "X-User-Id", "message": "is needed with this API key"}]},
        )
    if user_header not in (None, user_id):
        raise ApiError(403, "This API key is for another user", details={"field": "X-User-Id"})
    try:
        return check_user_id(user_id), grant.org_id, grant.key_id
    except InvalidRequest as error:
        raise ApiError(422, f"X-User-Id: {error}", details={"field": "X-User-Id"}) from error


def text_header(headers: dict[bytes, bytes], name: bytes, shown: str) -> str | None:
    """Read a header that is short text. Raises ApiError 422; `shown` is its name in that."""
    raw = headers.get(name)
    if raw is None:
        return None
    try:
        return _TEXT.validate_python(raw.decode("latin-1"))
    except ValidationError as error:
        raise validation_refusal(
            [{**one, "loc": ("header", shown)} for one in error.errors()]
        ) from None
