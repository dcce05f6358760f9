"""Where signing in may lead, what a cookie may say, and who may be anybody."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError
from support.browser import Browser
from support.world import World

from taximeter.api.access.cookies import ON_LOOPBACK
from taximeter.api.settings.api import ApiSettings
from taximeter.api.sign_in.attempts import HOME, LIVES_S, Attempt, safe_place
from taximeter.api.sign_in.browser_sessions import BrowserSessions
from taximeter.api.sign_in.tokens import CookieSecret, Tokens
from taximeter.api.web.background import TaskTracker

OIDC: dict[str, Any] = {
    "database_url": "postgresql://x/y",
    "redis_url": "redis://x",
    "oidc_issuer": "https://id.example.com",
    "oidc_audience": "api",
}


@pytest.mark.parametrize("place", ["/console", "/console/", "/console/org/a?x=1&y=%2F#z"])
def test_one_comes_back_to_where_one_was(place: str) -> None:
    assert safe_place(place) == place


@pytest.mark.parametrize(
    "place",
    [
        *(None, "", "/", "/consoles", "console/", "/api/v1/auth/user"),
        *("https://evil.example/console/", "//evil.example/console/", "/\\evil.example"),
        *("/console/../api", "/console/%2e%2e/api", "/console/%2E./api", "/console\\..\\x"),
        *("/console/session/leave", "/console/\r\nSet-Cookie: a=b", "/console/\x00", "/console/ü"),
        *("javascript:alert(1)", " /console/", "/console/ x", "/console/" + "x" * 1024),
    ],
)
def test_nobody_is_led_elsewhere(place: str | None) -> None:
    assert safe_place(place) == HOME


def test_an_attempt_is_read_back_by_its_own_browser_alone() -> None:
    now = time.time()
    one, other = Attempt.begin("/console/a", now), Attempt.begin("/console/a", now)
    assert Attempt.read(one.cookie, now + LIVES_S - 1) == one
    assert Attempt.read(one.cookie, now + LIVES_S + 2) is None
    assert Attempt.read(one.cookie, now - 3600) is None
    for cookie in ("", "..", "a.b.c", one.cookie + ".x", "AA." + one.cookie.partition(".")[2]):
        assert Attempt.read(cookie, now) is None, cookie
    assert one.is_answered_by(one.state)
    assert not any(one.is_answered_by(bad) for bad in (other.state, "", "\udcff", one.nonce))
    # Neither the place nor the time can be another one: the provider was told of these.
    secret, began, _ = one.cookie.split(".")
    elsewhere = Attempt.begin("/console/b", now).cookie.split(".")[2]
    moved = Attempt.read(f"{secret}.{began}.{elsewhere}", now)
    assert moved is not None
    assert not moved.is_answered_by(one.state)
    assert len({one.state, one.nonce, one.verifier, one.challenge}) == 4


def test_what_is_sealed_opens_with_its_own_cookie_alone() -> None:
    tokens = Tokens("a", made_at=1.0, ends_at=2.0, refresh="b", id_token="c")
    one, other = CookieSecret.make(), CookieSecret.make()
    sealed = one.seal(tokens)
    assert one.open(sealed) == tokens
    assert CookieSecret.read(one.cookie) == one
    assert other.open(sealed) is None
    assert one.open(sealed[:-1]) is None
    assert sealed != one.seal(tokens)
    assert "secret" not in repr(one) + repr(tokens)
    assert all(text not in repr(tokens) for text in ("'a'", "'b'", "'c'"))


async def test_two_processes_renew_once(world: World) -> None:
    """The one that comes second goes on with what there is, and has the new tokens when it ends."""
    asked = []
    now = time.time()

    async def renew(before: Tokens) -> Tokens:
        asked.append(before.refresh)
        return Tokens("new", made_at=now, ends_at=now + 3600, refresh="second")

    tracker = TaskTracker()
    pool = world.app.state.services.pool
    one, other = (
        BrowserSessions(pool, tracker, ON_LOOPBACK, lives_s=600, renew=renew, clock=lambda: now)
        for _ in range(2)
    )
    old = Tokens("old", made_at=now - 600, ends_at=now + 30, refresh="first")
    cookie = await one.begin(old, "ann", None)
    digest = CookieSecret.read(cookie)
    assert digest is not None
    # Another process asks at this moment, and has not been answered.
    await pool.execute(
        "UPDATE taximeter.browser_sessions SET renewing_until = now() + interval '1 minute'"
    )
    found = await other.find(cookie)
    assert found is not None
    assert (found.tokens.session, asked) == ("old", [])
    await pool.execute("UPDATE taximeter.browser_sessions SET renewing_until = '-infinity'")
    for sessions in (one, other, one):
        found = await sessions.find(cookie)
        assert found is not None
        assert found.tokens.session == "new"
    assert asked == ["first"]


async def test_dev_mode_asks_who_one_is(world: World) -> None:
    await world.funded("ann", 10.0)
    browser = Browser(world.client)
    page = await browser.get("/console/session/sign-in?to=/console/x")
    assert page.status_code == 200
    assert "ann<small>The acme company, member</small>" in page.text
    assert "script" not in page.headers["content-security-policy"]
    form = {"user_id": "ann", "to": "/console/x"}
    chosen = await browser.post("/console/session/choose", data=form)
    assert (chosen.status_code, chosen.headers["location"]) == (303, "/console/x")
    cookie = browser.set[ON_LOOPBACK.session]
    assert (cookie["httponly"], cookie["samesite"], cookie["secure"]) == (True, "lax", "")
    said = await browser.session()
    assert (said["mode"], said["user"]["is_system_admin"]) == ("dev", False)
    await browser.post("/console/session/choose", data={**form, "system_admin": "1"})
    assert (await browser.session())["user"]["is_system_admin"] is True
    assert (await browser.get("/console/session/back?code=x&state=y")).status_code == 404
    out = await browser.post("/console/session/sign-out")
    assert out.json() == {"location": "/console/signed-out"}
    assert (await browser.session())["signed_in"] is False


async def test_nobody_else_chooses_in_dev_mode(world: World) -> None:
    """A page of another site, also one whose name leads to this machine; and ids that are none."""
    ann = {"user_id": "ann"}
    for headers, form, status in (
        ({"Sec-Fetch-Site": "cross-site"}, ann, 403),
        ({"Host": "evil.example:8084"}, ann, 403),
        ({}, {"user_id": ""}, 422),
        ({}, {"user_id": "taximeter:key:x"}, 422),
        ({}, {"user_id": "a<script>\x07"}, 422),
    ):
        browser = Browser(world.client)
        answer = await browser.post("/console/session/choose", data=form, headers=headers)
        assert answer.status_code == status, answer.text
        assert not browser.kept
        assert "<script>" not in answer.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"oidc_client_id": "console"}, "set both or neither"),
        ({"console_url": "https://credits.example.com"}, "set both or neither"),
        ({"oidc_client_id": "c", "console_url": "http://credits.example.com"}, "https://HOST"),
        ({"oidc_client_id": "c", "console_url": "https://a.example/console"}, "without a path"),
        ({"oidc_client_id": "c", "console_url": "https://a.example?x=1"}, "no query"),
        ({"oidc_client_id": "c", "console_url": "https://u:p@a.example"}, "or user"),
        ({"oidc_scopes": "email profile"}, "oidc_scopes"),
    ],
)
def test_settings_that_cannot_sign_anybody_in_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ApiSettings(**OIDC, **given)


def test_dev_mode_and_real_sign_ins_are_never_together() -> None:
    with pytest.raises(ValidationError, match="TAXIMETER_OIDC_CLIENT_ID is for real sessions"):
        ApiSettings(
            database_url="postgresql://x/y",
            redis_url="redis://x",
            dev_mode=True,
            oidc_client_id="console",
            console_url="https://credits.example.com",
        )
