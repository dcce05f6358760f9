"""Sessions of a certified provider that nobody here wrote, from its login page to our answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from support.oidc import AUDIENCE, Provider, installed_provider, running_provider
from support.waiting import eventually
from support.world import BILLING, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ME = "/api/v1/auth/user"
INTERVAL_S = 0.5


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider(installed_provider()) as running:
        yield running


@pytest.fixture
def claims() -> dict[str, str]:
    """Settings of claims: override by parametrizing."""
    return {}


@pytest.fixture
def api_options(provider: Provider, claims: dict[str, Any]) -> dict[str, Any]:
    provider.change(up=True)
    return {
        "dev_mode": False,
        "oidc_issuer": provider.issuer,
        "oidc_audience": AUDIENCE,
        "oidc_keys_ttl_s": 1.0,
        "oidc_keys_interval_s": INTERVAL_S,
        **claims,
    }


async def me(world: World, token: str) -> httpx.Response:
    return await world.client.get(ME, headers={"Authorization": f"Bearer {token}"})


async def test_a_person_logs_in_and_spends(world: World, provider: Provider) -> None:
    """Keycloak's claims, as they come: the realm's role makes a system admin."""
    tokens = await asyncio.to_thread(
        provider.log_in, "ann", email="ann@example.com", realm_access={"roles": ["x"]}
    )
    found = (await me(world, tokens["access_token"])).json()
    assert (found["user_id"], found["email"]) == ("ann", "ann@example.com")
    assert found["is_system_admin"] is False
    root = provider.token(realm_access={"roles": ["x", "system_admin"]})
    subscribed = await world.client.post(
        f"{BILLING}/subscriptions",
        json={
            "org_id": "acme",
            "plan_code": "professional",
            "org_name": "Acme",
            "billing_email": "a@b.cd",
            "initial_credits": 10.0,
            "user_id": "ann",
        },
        headers={"Authorization": f"Bearer {root}"},
    )
    assert subscribed.status_code == 200, subscribed.text
    cookie = {"Cookie": f"session_token={tokens['access_token']}"}
    pool = await world.client.get(f"{BILLING}/credits/acme", headers=cookie)
    assert pool.json()["total_credits"] == 10.0
    # The ID token of the same login tells a front end who is there, and opens nothing.
    assert (await me(world, tokens["id_token"])).status_code == 401


@pytest.mark.parametrize(
    "claims",
    [
        {
            "oidc_user_claim": "preferred_username",
            "oidc_roles_claim": "https://taximeter.example/roles",
            "oidc_email_claim": "contact.mail",
            "oidc_only_access_tokens": True,
        }
    ],
)
async def test_claims_of_other_shapes(world: World, provider: Provider) -> None:
    token = provider.token(
        **{
            "preferred_username": "ann",
            "https://taximeter.example/roles": "other system_admin",
            "contact": {"mail": "ann@example.com"},
        }
    )
    found = (await me(world, token)).json()
    assert (found["user_id"], found["email"]) == ("ann", "ann@example.com")
    assert found["is_system_admin"] is True
    assert (await me(world, provider.token())).status_code == 401, "no user is named"
    plain = provider.token(header={"typ": "JWT"}, preferred_username="ann")
    assert (await me(world, plain)).status_code == 401, "not the type of an access token"


def unsigned(token: str) -> str:
    head = {**jwt.get_unverified_header(token), "alg": "none"}
    return f"{_text(head)}.{token.split('.')[1]}."


def by_public_key(token: str, jwk: dict[str, Any]) -> str:
    """The classic confusion: the published key as the secret of an HMAC."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = jwt.PyJWK(jwk).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{_text({**jwt.get_unverified_header(token), 'alg': 'HS256'})}.{token.split('.')[1]}"
    mac = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def critical(token: str) -> str:
    head = {**jwt.get_unverified_header(token), "crit": ["x"], "x": 1}
    return f"{_text(head)}.{token.partition('.')[2]}"


def _text(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


async def test_what_is_not_a_session_is_refused(world: World, provider: Provider) -> None:
    """Each but the forged ones is signed by the provider itself, with its real key."""
    now = int(time.time())
    good = provider.token()
    assert (await me(world, good)).status_code == 200
    jwks = provider.client.get("/jwks").json()["keys"]
    key_id = jwt.get_unverified_header(good)["kid"]
    public = next(one for one in jwks if one["kid"] == key_id)
    bad = {
        "another audience": provider.token(aud="https://other.example"),
        "another issuer": provider.token(iss="https://id.example"),
        "more than the issuer": provider.token(iss=f"{provider.issuer}/"),
        "expired": provider.token(exp=now - 120),
        "not valid yet": provider.token(nbf=now + 600),
        "from the future": provider.token(iat=now + 600),
        "an ID token by its type": provider.token(typ="ID"),
        "an ID token by its hash": provider.token(at_hash="x"),
        "a critical extension": critical(good),
        "another kind of token": provider.token(header={"typ": "logout+jwt"}),
        "no signature": unsigned(good),
        "the public key as a secret": by_public_key(good, public),
        "another signature": good[:-8] + ("A" * 8 if good[-8:] != "A" * 8 else "B" * 8),
        "too long": provider.token(junk="x" * 9000),
        "a token of dev mode": world.token("root", system_admin=True),
        "nothing like a token": "abc",
    }
    for name, token in bad.items():
        answer = await me(world, token)
        assert answer.status_code == 401, name
        assert answer.json()["error"]["code"] == "UNAUTHORIZED", name
    assert (await me(world, good)).status_code == 200


async def test_keys_rotate_with_an_overlap_and_then_end(world: World, provider: Provider) -> None:
    old = provider.token()
    assert (await me(world, old)).status_code == 200
    name = f"next-{time.monotonic_ns()}"
    provider.change(add=name)
    new = provider.token()
    assert jwt.get_unverified_header(new)["kid"] == name

    async def is_known() -> bool:
        return (await me(world, new)).status_code == 200

    await eventually(is_known, what="the new key")
    assert (await me(world, old)).status_code == 200, "both are published"
    another_old = provider.token(header={"kid": jwt.get_unverified_header(old)["kid"]})
    assert (await me(world, another_old)).status_code == 401, "the id of one key on another's work"
    provider.change(drop=jwt.get_unverified_header(old)["kid"])
    verifier = world.app.state.services.verifier
    _forget_tokens(verifier)

    async def has_ended() -> bool:
        _forget_tokens(verifier)
        return (await me(world, old)).status_code == 401

    await eventually(has_ended, what="the end of the old key")
    assert (await me(world, new)).status_code == 200


def _forget_tokens(verifier: Any) -> None:
    """As the minute would, for which an accepted token is remembered."""
    while not hasattr(verifier, "_known"):
        verifier = verifier._verifier
    verifier._known.clear()


async def test_a_flood_of_unknown_keys_costs_one_look_an_interval(
    world: World, provider: Provider
) -> None:
    good = provider.token()
    assert (await me(world, good)).status_code == 200
    strangers = [
        f"{_text({'alg': 'RS256', 'kid': f'flood-{number}'})}.{_text({'sub': 'x'})}.AAAA"
        for number in range(200)
    ]
    before, started = provider.change()["asked"], time.monotonic()
    answers = await asyncio.gather(*(me(world, token) for token in strangers))
    took_s = time.monotonic() - started
    assert {answer.status_code for answer in answers} == {401}
    asked = provider.change()["asked"] - before
    assert 1 <= asked <= 2 + took_s / INTERVAL_S, (asked, took_s)


async def test_an_outage_logs_nobody_out(world: World, provider: Provider) -> None:
    good, later = provider.token(), provider.token(jti="another")
    assert (await me(world, good)).status_code == 200
    provider.change(up=False)
    keys = world.app.state.services.verifier
    while not hasattr(keys, "_keys"):
        keys = keys._verifier

    async def keys_are_stale() -> bool:
        return keys._keys._clock() - keys._keys._fetched_at > 1.0

    await eventually(keys_are_stale, what="keys past their time")
    assert (await me(world, later)).status_code == 200
    _forget_tokens(world.app.state.services.verifier)
    assert (await me(world, good)).status_code == 200
