"""People sign in at the console by a certified provider that nobody here wrote; and others try."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from support.browser import Browser
from support.oidc import AUDIENCE, Provider, installed_provider, running_provider
from support.world import BILLING, World

from taximeter.api.access.cookies import OVER_TLS
from taximeter.api.browser.signing_in import SIGNED_OUT
from taximeter.api.running.services import Services
from taximeter.api.sign_in.attempts import LIVES_S, Attempt
from taximeter.api.sign_in.provider import SignInRefused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ORIGIN = "https://credits.example.com"
BACK = f"{ORIGIN}/console/session/back"
SIGN_IN = "/console/session/sign-in"
ME = "/api/v1/auth/user"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider(installed_provider()) as running:
        yield running


@pytest.fixture
def api_options(provider: Provider) -> dict[str, Any]:
    provider.change(up=True, refuses=False, ttl=600, claims={})
    provider.client.cookies.clear()
    return {
        "dev_mode": False,
        "oidc_issuer": provider.issuer,
        "oidc_audience": AUDIENCE,
        "oidc_client_id": "console",
        "oidc_client_secret": "for%the+console",
        "console_url": f"{ORIGIN}/",
    }


@pytest.fixture
def browser(world: World) -> Browser:
    return Browser(world.client)


def services_of(world: World) -> Services:
    services: Services = world.app.state.services
    return services


async def go(browser: Browser, provider: Provider, user: str, to: str = "/console/") -> str:
    """To the provider, and to where it sends the browser back to."""
    begun = await browser.get(f"{SIGN_IN}?{urlencode({'to': to})}")
    assert begun.status_code == 303, begun.text
    return await asyncio.to_thread(provider.walk, begun.headers["location"], user, BACK)


async def sign_in(browser: Browser, provider: Provider, user: str = "ann") -> None:
    answer = await browser.get(await go(browser, provider, user))
    assert answer.status_code == 303, answer.text


async def sessions(world: World) -> list[Any]:
    return list(await world.stores.pool.fetch("SELECT * FROM taximeter.browser_sessions"))


async def test_a_person_signs_in_and_out(
    world: World, provider: Provider, browser: Browser
) -> None:
    """The whole way, and what each step may say."""
    said = await browser.session()
    assert (said["signed_in"], said["mode"], said["sign_in"]) == (False, "oidc", SIGN_IN)

    begun = await browser.get(
        f"{SIGN_IN}?to=/console/org/acme?tab=keys", headers={"Host": "evil.example"}
    )
    address = urlsplit(begun.headers["location"])
    assert f"{address.scheme}://{address.netloc}" == provider.issuer
    query = {name: values[0] for name, values in parse_qs(address.query).items()}
    assert query["redirect_uri"] == BACK, "as the settings say, whatever Host says"
    assert (query["response_type"], query["code_challenge_method"]) == ("code", "S256")
    assert len(query["state"]) == len(query["nonce"]) == len(query["code_challenge"]) == 43
    assert browser.kept[OVER_TLS.attempt] not in begun.headers["location"]

    where = await asyncio.to_thread(provider.walk, begun.headers["location"], "ann", BACK)
    arrived = await browser.get(where)
    assert (arrived.status_code, arrived.headers["location"]) == (
        303,
        "/console/org/acme?tab=keys",
    )
    cookie = browser.set[OVER_TLS.session]
    assert cookie.key.startswith("__Host-")
    assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, True, "lax")
    assert (cookie["path"], cookie["domain"], len(cookie.value)) == ("/", "", 43)
    assert OVER_TLS.attempt not in browser.kept, "it is good once"

    said = await browser.session()
    assert (said["signed_in"], said["user"]["user_id"]) == (True, "ann")
    assert said["user"]["is_system_admin"] is False
    assert (await browser.get(ME)).json()["user_id"] == "ann"
    (row,) = await sessions(world)
    assert cookie.value.encode() not in row["sealed"] + row["digest"]
    assert b"eyJ" not in row["sealed"], "no token lies there to be read"

    out = await browser.post("/console/session/sign-out")
    assert out.json() == {"location": "/console/session/leave"}
    assert OVER_TLS.session not in browser.kept
    left = await browser.get("/console/session/leave")
    end = urlsplit(left.headers["location"])
    assert end.path == "/session/end"
    assert parse_qs(end.query)["post_logout_redirect_uri"] == [ORIGIN + SIGNED_OUT]
    assert parse_qs(end.query)["id_token_hint"][0].startswith("eyJ")
    walked = await asyncio.to_thread(provider.walk, left.headers["location"], "", ORIGIN)
    assert urlsplit(walked).path == SIGNED_OUT
    assert not browser.kept
    # Signed out here, for whoever has kept the cookie, and there, for whoever comes back.
    browser.kept[OVER_TLS.session] = cookie.value
    assert (await browser.get(ME)).status_code == 401
    assert (await browser.session())["signed_in"] is False
    assert await sessions(world) == []
    again = await browser.get(SIGN_IN)
    page = provider.client.get(again.headers["location"], follow_redirects=True)
    assert 'name="login"' in page.text, "the provider asks who it is"


async def test_answers_that_are_to_no_attempt_of_this_browser_sign_nobody_in(
    world: World, provider: Provider, browser: Browser
) -> None:
    """A wrong state, none, a stranger's, a code that was used, one that another browser was given,
    an attempt that took too long, and one that the provider has refused.
    """

    async def refused(by: Browser, where: str) -> None:
        answer = await by.get(where)
        assert answer.status_code == 400, where
        assert "Sign in again" in answer.text
        assert OVER_TLS.session not in by.kept
        assert OVER_TLS.attempt not in by.kept, "an attempt ends with its answer"

    async def attempted(user: str = "ann") -> tuple[str, dict[str, str]]:
        where = await go(browser, provider, user)
        return where, dict(browser.kept)

    where, kept = await attempted()
    query = parse_qs(urlsplit(where).query)
    state, code = query["state"][0], query["code"][0]
    denied = urlencode({"error": "access_denied", "error_description": "Call", "state": state})
    for tampered in (
        where.replace(state, "x" * 43),
        where.replace(state, state[:-1] + ("A" if state[-1] != "A" else "B")),
        f"{BACK}?code={code}",
        f"{BACK}?{denied}",
        f"{BACK}?{urlencode({'code': code, 'state': state, 'iss': 'https://other.example'})}",
    ):
        browser.kept = dict(kept)
        await refused(browser, tampered)
    await refused(Browser(world.client), where)
    # Somebody else's code, put in where this browser waits for its own: PKCE tells.
    other = Browser(world.client)
    await other.get(SIGN_IN)
    others = Attempt.read(other.kept[OVER_TLS.attempt], time.time())
    assert others is not None
    await refused(other, f"{BACK}?{urlencode({'code': code, 'state': others.state})}")

    where, kept = await attempted()
    assert (await browser.get(where)).status_code == 303
    browser.kept = dict(kept)
    await refused(browser, where)  # The provider gives a code's tokens once, and takes them back.

    began = Attempt.begin("/console/", time.time() - LIVES_S - 1)
    browser.kept = {OVER_TLS.attempt: began.cookie}
    await refused(browser, f"{BACK}?{urlencode({'code': 'x', 'state': began.state})}")
    assert [row["user_id"] for row in await sessions(world)] == ["ann"]


async def test_an_id_token_of_another_attempt_is_refused(
    world: World, provider: Provider, browser: Browser
) -> None:
    """The provider's answer is genuine, and somebody else's: it has another nonce."""
    where = await go(browser, provider, "ann")
    code = parse_qs(urlsplit(where).query)["code"][0]
    mine = Attempt.read(browser.kept[OVER_TLS.attempt], time.time())
    assert mine is not None

    @dataclass(frozen=True)
    class Mixed:
        verifier = mine.verifier
        nonce = Attempt.begin("/console/", time.time()).nonce

    client = services_of(world).provider
    assert client is not None
    with pytest.raises(SignInRefused, match="belongs to another sign-in"):
        await client.exchange(code, Mixed(), None)  # type: ignore[arg-type]


async def test_signing_in_changes_the_cookie_and_ends_the_one_before(
    world: World, provider: Provider, browser: Browser
) -> None:
    """A cookie that somebody has planted, or has seen, is worth nothing afterwards."""
    await sign_in(browser, provider)
    first = browser.kept[OVER_TLS.session]
    await sign_in(browser, provider)
    assert browser.kept[OVER_TLS.session] != first
    assert len(await sessions(world)) == 1
    planted = Browser(world.client, {OVER_TLS.session: first})
    assert (await planted.get(ME)).status_code == 401
    unknown = Browser(world.client, {OVER_TLS.session: "A" * 43})
    await sign_in(unknown, provider)
    assert unknown.kept[OVER_TLS.session] != "A" * 43


async def test_cookies_that_were_tampered_with_are_no_sessions(
    world: World, provider: Provider, browser: Browser
) -> None:
    await sign_in(browser, provider)
    good = browser.kept[OVER_TLS.session]
    (row,) = await sessions(world)
    flipped = ("B" if good[0] == "A" else "A") + good[1:]
    for bad in (flipped, good[:-1], good + "A", good + "=", row["digest"].hex(), "."):
        one = Browser(world.client, {OVER_TLS.session: bad})
        assert (await one.get(ME)).status_code == 401, bad
        assert (await one.session())["signed_in"] is False
        assert OVER_TLS.session not in one.kept, "it is taken away"
    # Nor is a row that somebody has moved: it opens with its own cookie alone.
    sealed = bytearray(row["sealed"])
    sealed[-1] ^= 1
    await world.stores.pool.execute(
        "UPDATE taximeter.browser_sessions SET sealed = $1", bytes(sealed)
    )
    assert (await browser.get(ME)).status_code == 401


async def test_what_a_foreign_page_starts_changes_nothing(
    world: World, provider: Provider, browser: Browser
) -> None:
    await sign_in(browser, provider)
    for foreign in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "https://evil.example.com"},
    ):
        out = await browser.post("/console/session/sign-out", headers=foreign)
        assert out.status_code == 403
        body = {"org_id": None}
        path = f"{ME}/default-organization"
        assert (await browser.ask("PUT", path, json=body, headers=foreign)).status_code == 403
    assert (await browser.session())["signed_in"] is True


async def test_whose_membership_ends_sees_nothing_more(
    world: World, provider: Provider, browser: Browser
) -> None:
    root = {"Authorization": f"Bearer {provider.token(realm_access={'roles': ['system_admin']})}"}
    made = await world.client.post(
        f"{BILLING}/subscriptions",
        json={
            "org_id": "acme",
            "plan_code": "professional",
            "org_name": "Acme",
            "billing_email": "a@b.cd",
            "initial_credits": 10.0,
            "user_id": "boss",
        },
        headers=root,
    )
    assert made.status_code == 200, made.text
    members = f"{BILLING}/orgs/acme/members"
    await world.client.post(members, json={"user_id": "ann"}, headers=root)
    await sign_in(browser, provider)
    assert (await browser.get(f"{BILLING}/credits/acme")).status_code == 200
    removed = await world.client.delete(f"{members}/ann", headers=root)
    assert removed.status_code == 200, removed.text
    assert (await browser.get(f"{BILLING}/credits/acme")).status_code == 404
    assert (await browser.session())["signed_in"] is True


async def test_tokens_are_renewed_before_they_end_and_once(
    world: World, provider: Provider, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many requests at once use a refresh token once: the provider ends everything when one that
    was used comes again. Where it does not answer, a token that is good goes on being so.
    """
    await sign_in(browser, provider)
    browsers = services_of(world).browsers
    before = (await sessions(world))[0]
    in_the_last_minute = time.time() + 570
    monkeypatch.setattr(browsers, "_clock", lambda: in_the_last_minute)
    provider.change(up=False)
    assert (await browser.get(ME)).status_code == 200
    assert (await sessions(world))[0]["generation"] == 0
    exchanged = provider.change(up=True, ttl=3600)["exchanged"]
    answers = await asyncio.gather(*(browser.get(ME) for _ in range(8)))
    assert [one.status_code for one in answers] == [200] * 8
    (after,) = await sessions(world)
    assert provider.change()["exchanged"] == exchanged + 1
    assert (after["generation"], after["ends_at"]) == (1, before["ends_at"])
    assert after["sealed"] != before["sealed"]
    assert (await browser.get(ME)).status_code == 200

    # When it has ended and cannot be renewed now, nothing is known; when it may not be, it is over.
    monkeypatch.setattr(browsers, "_clock", lambda: in_the_last_minute + 3600)
    provider.change(up=False)
    away = await browser.get(ME)
    assert (away.status_code, "retry-after" in away.headers) == (503, True)
    provider.change(up=True, refuses=True)
    assert (await browser.get(ME)).status_code == 401
    assert await sessions(world) == []


async def test_a_session_ends_whatever_one_does(
    world: World, provider: Provider, browser: Browser
) -> None:
    await sign_in(browser, provider)
    await world.stores.pool.execute("UPDATE taximeter.browser_sessions SET ends_at = now()")
    assert (await browser.get(ME)).status_code == 401
    provider.client.cookies.clear()
    await sign_in(Browser(world.client), provider, "bob")
    assert [row["user_id"] for row in await sessions(world)] == ["bob"], "old rows are taken away"


async def test_nobody_signs_in_while_the_provider_is_away(
    world: World, provider: Provider, browser: Browser
) -> None:
    where = await go(browser, provider, "ann")
    provider.change(up=False)
    answer = await browser.get(where)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert await sessions(world) == []


async def test_who_is_signed_in_elsewhere_for_another_audience_is_told(
    world: World, provider: Provider, browser: Browser
) -> None:
    where = await go(browser, provider, "ann")
    provider.change(claims={"aud": "https://other.example"})
    answer = await browser.get(where)
    assert answer.status_code == 403
    assert "You have signed in, but not here" in answer.text
    assert await sessions(world) == []


async def test_nobody_chooses_who_they_are(world: World, browser: Browser) -> None:
    """The page of dev mode is in dev mode alone."""
    chosen = await browser.post("/console/session/choose", data={"user_id": "root"})
    assert chosen.status_code == 404
    assert (await browser.get(SIGN_IN)).status_code == 303
    assert services_of(world).dev_people is None
