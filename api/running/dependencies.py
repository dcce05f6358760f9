"""Gives routes what they ask for: the services, the caller, and what the caller may do in an
organisation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Path, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import APIKeyCookie, HTTPBearer

from taximeter.api.access.cookies import SESSION_COOKIE
from taximeter.api.access.key_text import SYSTEM_PREFIX
from taximeter.api.access.rate_limits import kind_of
from taximeter.api.access.sessions import Principal
from taximeter.api.running.services import Services
from taximeter.api.sql import IDENTITY
from taximeter.api.web.errors import ApiError, validation_refusal
from taximeter.api.web.exact_route import ExactRoute
from taximeter.api.web.json_numbers import OrgId
from taximeter.meter import WrongCell
from taximeter.meter.wire.away import away_error

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_ONCE = {
    name.lower().encode(): name
    for name in ("Authorization", "X-Org-Id", "X-User-Id", "Idempotency-Key")
}

# These two only describe the ways to authenticate in the OpenAPI document.
bearer_scheme = HTTPBearer(
    auto_error=False, description="A session token, or a key of the installation"
)
cookie_scheme = APIKeyCookie(name=SESSION_COOKIE, auto_error=False, description="A session token")


def get_services(request: Request) -> Services:
    """The services of the running application."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]


def bearer_token(header: str | None) -> str | None:
    """The token of an Authorization header. Raises ApiError 401 for a header of another kind."""
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _login_needed("The Authorization header must be 'Bearer <token>'")
    return token.strip()


def bearer_needed() -> ApiError:
    """The refusal of a request without a token, on a path that takes no cookies."""
    return _login_needed("Send a token as 'Authorization: Bearer <token>'")


async def cookie_token(request: Request, services: Services) -> str:
    """The session token that a browser's cookie stands for, or is. Raises ApiError 401 without one
    or for a session that is over, 403 for a request that another site has started.
    """
    cookie = request.cookies.get(services.browsers.cookies.session)
    token = request.cookies.get(SESSION_COOKIE)
    if not cookie and not token:
        raise _login_needed("Log in first: no session token was sent")
    refuse_foreign_site(request)
    if cookie:
        session = await services.browsers.find(cookie)
        if session is None:
            raise _login_needed("The session has ended: sign in again")
        return session.tokens.session
    assert token, "one of the two was sent"
    return token


def _login_needed(message: str) -> ApiError:
    return ApiError(401, message, headers={"WWW-Authenticate": "Bearer"})


def refuse_foreign_site(request: Request) -> None:
    """A cookie travels with requests that other sites start, so a change by cookie must come from
    our own pages. Raises ApiError 403.
    """
    if request.method in _SAFE_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        trusted = site in {"same-origin", "none"}
    else:
        origin = request.headers.get("origin")
        trusted = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not trusted:
        raise ApiError(
            403, "Changes by session cookie are accepted from this site's own pages only"
        )


def refuse_repeated(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a request that says twice who calls, who pays or which request it is: a proxy that
    adds where it should replace would let callers choose. Raises ApiError 422.
    """
    seen = set()
    for name, _ in headers:
        if name in seen:
            shown = _ONCE[name]
            raise ApiError(422, f"{shown}: must be given once", details={"field": shown})
        if name in _ONCE:
            seen.add(name)


async def get_principal(request: Request, services: ServicesDep) -> Principal:
    """The caller, by bearer token, key of the installation or session cookie. Raises ApiError 401,
    403, 422 or 503.
    """
    known: Principal | None = getattr(request.state, "principal", None)
    return known or await identify(request, services)


async def identify(request: Request, services: Services) -> Principal:
    """Who calls, asked anew: whoever answers for long asks again. Raises as `get_principal`."""
    refuse_repeated(request.scope["headers"])
    token = bearer_token(request.headers.get("authorization"))
    if token is not None and token.startswith(SYSTEM_PREFIX):
        tags = frozenset(str(tag) for tag in request.scope["route"].tags)
        return await services.system_keys.caller(token, request.method, tags)
    principal = await services.verifier.verify(
        await cookie_token(request, services) if token is None else token
    )
    return await services.admins.of(principal)


PrincipalDep = Annotated[Principal, Depends(get_principal)]


async def within_limits(
    request: Request, principal: PrincipalDep, services: ServicesDep
) -> AsyncIterator[None]:
    """What every route with a login depends on. Raises ApiError 429."""
    template = request.scope["route"].path
    kind = kind_of(request.method, template)
    if kind == "subscriptions" and principal.is_system_admin:
        kind = "admin_subscriptions"
    await services.limiter.admit(kind, principal.user_id)
    try:
        yield
    except (ApiError, RequestValidationError) as error:
        # Who mistypes a body has made no subscription, and tries again.
        if kind == "admin_subscriptions" and getattr(error, "status", 422) in (400, 409, 415, 422):
            await services.limiter.give_back(kind, principal.user_id)
        raise


class CallerFirstRoute(ExactRoute):
    """A route that asks who calls before it reads a body: a stranger's is never parsed."""

    async def before_body(self, request: Request) -> None:
        if _asks_for(self.dependant, get_principal):
            request.state.principal = await identify(request, get_services(request))


async def known_parameters(request: Request) -> None:
    """What every route depends on: a misspelt parameter is refused and not ignored.
    Raises ApiError 422.
    """
    route: APIRoute = request.scope["route"]
    known = _parameters(route)
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        raise validation_refusal(
            [{"loc": ("query", name[:64]), "type": "extra_forbidden"} for name in unknown[:10]]
        )


def _parameters(route: APIRoute) -> frozenset[str]:
    everything = _dependants(route.dependant)
    return frozenset(field.alias for one in everything for field in one.query_params)


def _asks_for(dependant: Dependant, dependency: Callable[..., Any]) -> bool:
    return any(one.call is dependency for one in _dependants(dependant))


def _dependants(root: Dependant) -> Iterator[Dependant]:
    """It, and what it depends on, at any depth."""
    yield root
    for one in root.dependencies:
        yield from _dependants(one)


@dataclass(frozen=True, slots=True)
class Access:
    """A caller inside one organisation. A system admin may do what an org admin may."""

    principal: Principal
    org_id: str
    is_admin: bool
    state: str = "active"

    @property
    def user_id(self) -> str:
        return self.principal.user_id


async def get_member(
    org_id: Annotated[OrgId, Path()],
    principal: PrincipalDep,
    services: ServicesDep,
    request: Request,
) -> Access:
    """Lets in active members and system admins; others get 404, as if it did not exist. Raises
    WrongCell (421) where it lives in another cell, OrganizationMoves (503) for a change on its way.
    """
    row = await services.pool.fetchrow(IDENTITY["org_access"], org_id, principal.user_id)
    assert row is not None, "a query without FROM has one row"
    if row["state"] is None and services.directory is not None:
        await services.directory.check(org_id)
    if row["state"] is None or (row["role"] is None and not principal.is_system_admin):
        raise ApiError(404, "Organization not found")
    if row["away"] is not None:
        error = away_error(org_id, row["away"])
        if isinstance(error, WrongCell) or request.method not in _SAFE_METHODS:
            raise error
    is_admin = principal.is_system_admin or row["role"] == "admin"
    return Access(principal, org_id, is_admin, row["state"])


async def claim_if_new(services: Services, org_id: str) -> None:
    """Where there are cells, write down that a new organisation lives in this one, before it is
    made. Raises WrongCell (421) where another cell has it, CellUnknown (503).
    """
    if services.directory is None or await services.pool.fetchval(IDENTITY["is_here"], org_id):
        return
    await services.directory.claim(org_id)


MemberDep = Annotated[Access, Depends(get_member)]


def get_org_admin(access: MemberDep, request: Request) -> Access:
    """Lets in the organisation's admins and system admins. Raises ApiError 403 for members, 404 for
    others; while it is suspended, only system admins change anything, and nobody once it is
    deleted.
    """
    if not access.is_admin:
        raise ApiError(403, "Org admin permission required")
    if request.method not in _SAFE_METHODS and access.state != "active":
        if access.state == "deleted":
            raise ApiError.of("organization_deleted")
        if not access.principal.is_system_admin:
            raise suspended()
    return access


def suspended() -> ApiError:
    """The refusal where an organisation is suspended."""
    return ApiError.of("suspended")


OrgAdminDep = Annotated[Access, Depends(get_org_admin)]


def get_system_admin(principal: PrincipalDep) -> Principal:
    """Lets in system admins alone. Raises ApiError 403."""
    if not principal.is_system_admin:
        raise ApiError(403, "System admin permission required")
    return principal


SystemAdminDep = Annotated[Principal, Depends(get_system_admin)]


def own_user(access: Access, user_id: str | None) -> str | None:
    """Whose figures are asked for: a member who is no admin has only their own. Raises ApiError
    403.
    """
    if access.is_admin:
        return user_id
    if user_id not in (None, access.user_id):
        raise ApiError(403, "Members can see their own figures only")
    return access.user_id
