"""Callers of the LLM route who show an API key in place of a session."""

from __future__ import annotations

from taximeter.api.access.api_keys import KeyStore
from taximeter.api.web.errors import ApiError
from taximeter.meter import InvalidRequest
from taximeter.meter.wire.limits import check_user_id


async def key_caller(
    keys: KeyStore, key: str, user_header: str | None, org_header: str | None
) -> tuple[str, str]:
    """The user that the key acts for, and the organisation that pays. Raises ApiError 401, 403 or
    422, and asyncpg errors when Postgres does not answer.

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
        return check_user_id(user_id), grant.org_id
    except InvalidRequest as error:
        raise ApiError(422, f"X-User-Id: {error}", details={"field": "X-User-Id"}) from error
