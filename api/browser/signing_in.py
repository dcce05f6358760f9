"""Signs people in and out, for the console: where the browser goes, and what the console is told.

None of these is for programs, so none stands in the OpenAPI document.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException

from taximeter.api.browser.pages import choose, say
from taximeter.api.running.dependencies import ServicesDep, refuse_foreign_site
from taximeter.api.running.services import Services
from taximeter.api.sign_in.attempts import HOME, LIVES_S, Attempt, safe_place
from taximeter.api.sign_in.browser_sessions import ProviderAway
from taximeter.api.sign_in.provider import SignInRefused
from taximeter.api.sign_in.tokens import Tokens
from taximeter.api.web.errors import ApiError
from taximeter.api.web.strangers import NOTED_AS, NOTHING
from taximeter.meter import InvalidRequest

logger = logging.getLogger("taximeter.api")

router = APIRouter(include_in_schema=False)

SIGN_IN = "/console/session/sign-in"
SIGNED_OUT = "/console/signed-out"
NOT_SET_UP = (
    "Nobody can sign in here yet: TAXIMETER_CONSOLE_URL and TAXIMETER_OIDC_CLIENT_ID are not set."
)
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_COOKIE_BYTES_MAX = 3800


@router.get("/console/session")
async def session(request: Request, services: ServicesDep) -> Response:
    """Who is signed in, and where one signs in. A cookie that is good for nothing is taken away."""
    cookies = services.browsers.cookies
    cookie = request.cookies.get(cookies.session)
    user, ends_at = None, None
    if cookie is None:
        request.scope[NOTED_AS] = NOTHING
    else:
        user, ends_at = await _known(services, cookie)
        if user is None:
            request.scope[NOTED_AS] = 401
    can = services.provider is not None or services.dev_people is not None
    answer = JSONResponse(
        {
            "signed_in": user is not None,
            "mode": "oidc" if services.dev_people is None else "dev",
            "user": user,
            "expires_at": None if ends_at is None else ends_at.isoformat(),
            "sign_in": SIGN_IN if can else None,
            "problem": None if can else NOT_SET_UP,
        },
        headers=_NO_STORE,
    )
    if cookie is not None and user is None:
        _forget(answer, services, cookies.session)
    return answer


async def _known(services: Services, cookie: str) -> tuple[dict[str, Any] | None, datetime | None]:
    found = await services.browsers.find(cookie)
    if found is None:
        return None, None
    try:
        principal = await services.verifier.verify(found.tokens.session)
    except ApiError as error:
        if error.status != 401:
            raise
        return None, None
    principal = await services.admins.of(principal)
    user = {
        "user_id": principal.user_id,
        "email": principal.email,
        "name": principal.name,
        "is_system_admin": principal.is_system_admin,
    }
    return user, found.ends_at


@router.get(SIGN_IN)
async def sign_in(request: Request, services: ServicesDep, to: str | None = None) -> Response:
    """Sends the browser to the identity provider; in dev mode, the page to choose who one is."""
    request.scope[NOTED_AS] = NOTHING
    place = safe_place(to)
    if services.dev_people is not None:
        return choose(await services.dev_people.listed(), place, None)
    if services.provider is None:
        return say(503, "No sign-in", NOT_SET_UP, ("Back", HOME))
    attempt = Attempt.begin(place, time.time())
    try:
        address = await services.provider.sign_in_address(attempt)
    except ProviderAway as error:
        logger.warning("nobody can sign in: %s", error)
        return _away(place)
    answer = RedirectResponse(address, 303, _NO_STORE)
    _remember(answer, services, services.browsers.cookies.attempt, attempt.cookie, LIVES_S)
    return answer


@router.get("/console/session/back")
async def back(
    request: Request,
    services: ServicesDep,
    code: str | None = None,
    state: str | None = None,
    iss: str | None = None,
) -> Response:
    """Where the identity provider sends the browser back to."""
    if services.provider is None:
        raise HTTPException(404)
    cookies = services.browsers.cookies
    attempt = Attempt.read(request.cookies.get(cookies.attempt, ""), time.time())
    if attempt is None or state is None or not attempt.is_answered_by(state):
        answer = _again(
            400, HOME, "This sign-in was not begun here, took too long, or has ended already."
        )
    elif code is None:
        answer = _again(400, attempt.place, "The identity provider has signed nobody in.")
    else:
        answer = await _arrive(request, services, attempt, code, iss)
    _forget(answer, services, cookies.attempt)
    return answer


async def _arrive(
    request: Request, services: Services, attempt: Attempt, code: str, issuer: str | None
) -> Response:
    assert services.provider is not None, "the caller has looked"
    try:
        tokens = await services.provider.exchange(code, attempt, issuer)
        principal = await services.verifier.verify(tokens.session)
    except SignInRefused as refusal:
        return _again(400, attempt.place, str(refusal))
    except ProviderAway as error:
        logger.warning("nobody can sign in: %s", error)
        return _away(attempt.place)
    except ApiError as error:
        if error.status != 401:
            raise
        logger.warning("somebody who has signed in is not let in: %s", error.message)
        return _again(403, attempt.place, f"You have signed in, but not here: {error.message}.")
    return await _begun(request, services, tokens, principal.user_id, attempt.place)


@router.post("/console/session/choose")
async def choose_person(request: Request, services: ServicesDep) -> Response:
    """Dev mode alone: be anybody. A form with `user_id`, `to`, and `system_admin` if so."""
    if services.dev_people is None:
        raise HTTPException(404)
    refuse_foreign_site(request)
    _refuse_foreign_name(request)
    form = dict(parse_qsl((await request.body()).decode("latin-1"), max_num_fields=10))
    place = safe_place(form.get("to"))
    try:
        tokens = services.dev_people.tokens(
            form.get("user_id", ""), system_admin="system_admin" in form
        )
        principal = await services.verifier.verify(tokens.session)
    except (InvalidRequest, ApiError) as error:
        return choose(await services.dev_people.listed(), place, str(error))
    return await _begun(request, services, tokens, principal.user_id, place)


def _refuse_foreign_name(request: Request) -> None:
    """A web site may give its own name this machine's address, and its pages are then of the same
    origin as ours. Raises ApiError 403.
    """
    host = request.url.hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return
    try:
        ip_address(host)
    except ValueError:
        raise ApiError(403, "In dev mode, sign in at localhost or by an address") from None


@router.post("/console/session/sign-out")
async def sign_out(request: Request, services: ServicesDep) -> Response:
    """Ends the session, at once, and says where the browser goes next: to the provider, by way of
    `leave`, so that no script sees the ID token with which it goes.
    """
    cookies = services.browsers.cookies
    cookie = request.cookies.get(cookies.session)
    refuse_foreign_site(request)
    had = None if cookie is None else await services.browsers.end(cookie)
    if cookie is None or had is None:
        request.scope[NOTED_AS] = NOTHING
    location = SIGNED_OUT if services.provider is None else "/console/session/leave"
    answer = JSONResponse({"location": location}, headers=_NO_STORE)
    _forget(answer, services, cookies.session)
    hint = None if had is None else had.id_token
    if services.provider is not None and hint is not None and len(hint) <= _COOKIE_BYTES_MAX:
        _remember(answer, services, cookies.leaving, hint, LIVES_S)
    return answer


@router.get("/console/session/leave")
async def leave(request: Request, services: ServicesDep) -> Response:
    """To the provider's own end of its session, where it has such a place."""
    request.scope[NOTED_AS] = NOTHING
    cookies = services.browsers.cookies
    address = None
    if services.provider is not None:
        try:
            hint = request.cookies.get(cookies.leaving)
            address = await services.provider.sign_out_address(hint)
        except ProviderAway as error:
            logger.warning("signed out here, and not at the identity provider: %s", error)
    answer = RedirectResponse(address or SIGNED_OUT, 303, _NO_STORE)
    _forget(answer, services, cookies.leaving)
    return answer


async def _begun(
    request: Request, services: Services, tokens: Tokens, user_id: str, place: str
) -> Response:
    browsers = services.browsers
    before = request.cookies.get(browsers.cookies.session)
    cookie = await browsers.begin(tokens, user_id, before)
    answer = RedirectResponse(place, 303, _NO_STORE)
    _remember(answer, services, browsers.cookies.session, cookie, int(browsers.lives_s))
    return answer


def _again(status: int, place: str, sentence: str) -> Response:
    link = ("Sign in again", f"{SIGN_IN}?to={quote(place, safe='')}")
    return say(status, "Not signed in", sentence, link)


def _away(place: str) -> Response:
    answer = _again(503, place, "The identity provider does not answer now.")
    answer.headers["Retry-After"] = "5"
    return answer


def _remember(answer: Response, services: Services, name: str, value: str, lives_s: int) -> None:
    answer.set_cookie(
        name,
        value,
        max_age=lives_s,
        path="/",
        secure=services.browsers.cookies.secure,
        httponly=True,
        samesite="lax",
    )


def _forget(answer: Response, services: Services, name: str) -> None:
    answer.delete_cookie(
        name, path="/", secure=services.browsers.cookies.secure, httponly=True, samesite="lax"
    )
