"""Sessions: what is accepted, and every way to forge one that is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import RSAAlgorithm
from pydantic import ValidationError

from taximeter.api.access.dev_tokens import DevKeyError, load_dev_key
from taximeter.api.access.jwks import KeySet, KeysUnavailable
from taximeter.api.access.sessions import (
    TOKENS_REMEMBERED_MAX,
    DevVerifier,
    OidcVerifier,
    Principal,
    RememberingVerifier,
)
from taximeter.api.settings.api import ApiSettings
from taximeter.api.web.errors import ApiError

ISSUER = "https://id.example/realms/main"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def claims(**change: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {
        "iss": ISSUER,
        "aud": "taximeter",
        "sub": "ann",
        "iat": now,
        "exp": now + 60,
        "typ": "Bearer",
        "realm_access": {"roles": ["offline_access"]},
        **change,
    }
    return {name: value for name, value in made.items() if value is not None}


def signed(key: Any = RSA_KEY, algorithm: str = "RS256", **change: Any) -> str:
    headers = change.pop("headers", {"kid": "k1"})
    return jwt.encode(claims(**change), key, algorithm, headers=headers)


class Issuer:
    """An identity provider's document of keys, with a count of how often it was asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.up = True
        self.now = 0.0
        self.keys = {"k1": RSA_KEY.public_key()}

    def answer(self, _: httpx.Request) -> httpx.Response:
        self.asked += 1
        if not self.up:
            return httpx.Response(503)
        keys = [
            {**json.loads(RSAAlgorithm.to_jwk(key)), "kid": key_id, "alg": "RS256", "use": "sig"}
            for key_id, key in self.keys.items()
        ]
        secret = base64.urlsafe_b64encode(b"x" * 32).decode()
        return httpx.Response(200, json={"keys": [*keys, {"kty": "oct", "kid": "hs", "k": secret}]})

    def verifier(self) -> OidcVerifier:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        keys = KeySet(
            "https://id.example/keys", client, algorithms=["RS256"], clock=lambda: self.now
        )
        return OidcVerifier(
            keys,
            issuer=ISSUER,
            audience="taximeter",
            algorithms=("RS256",),
            admin_role="system_admin",
        )


async def refused(verifier: Any, token: str, status: int = 401) -> None:
    with pytest.raises(ApiError) as refusal:
        await verifier.verify(token)
    assert refusal.value.status == status


async def test_a_token_of_the_issuer() -> None:
    verifier = Issuer().verifier()
    caller = await verifier.verify(signed(email="ann@example.com"))
    assert (caller.user_id, caller.email, caller.is_system_admin) == (
        "ann",
        "ann@example.com",
        False,
    )
    roles = {"roles": ["system_admin"]}
    assert (await verifier.verify(signed(realm_access=roles))).is_system_admin
    assert (await verifier.verify(signed(headers={"kid": "k1", "typ": "at+jwt"}))).user_id == "ann"


def unsigned() -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    return (head + b"." + body + b".").decode()


def by_public_key() -> str:
    """The classic confusion: the public key used as the secret of an HMAC."""
    pem = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"k1"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    text = head + b"." + body
    mac = base64.urlsafe_b64encode(hmac.new(pem, text, hashlib.sha256).digest()).rstrip(b"=")
    return (text + b"." + mac).decode()


FORGERIES: dict[str, Callable[[], str]] = {
    "another key": lambda: signed(OTHER_KEY),
    "no signature": unsigned,
    "public key as secret": by_public_key,
    "symmetric key of the document": lambda: signed(b"x" * 32, "HS256", headers={"kid": "hs"}),
    "an algorithm that is not configured": lambda: signed(EC_KEY, "ES256"),
    "unknown key id": lambda: signed(headers={"kid": "k2"}),
    "no key id": lambda: signed(headers={}),
    "another issuer": lambda: signed(iss=ISSUER + "x"),
    "part of the issuer": lambda: signed(iss="https://id.example"),
    "another audience": lambda: signed(aud="account"),
    "expired": lambda: signed(exp=int(time.time()) - 120),
    "from the future": lambda: signed(iat=int(time.time()) + 600),
    "not valid yet": lambda: signed(nbf=int(time.time()) + 600),
    "no expiry": lambda: signed(exp=None),
    "no subject": lambda: signed(sub=None),
    "no audience": lambda: signed(aud=None),
    "an ID token": lambda: signed(typ="ID"),
    "a refresh token": lambda: signed(typ="Refresh"),
    "another type": lambda: signed(headers={"kid": "k1", "typ": "logout+jwt"}),
    "critical extension": lambda: signed(headers={"kid": "k1", "crit": ["x"], "x": 1}),
    "subject with control characters": lambda: signed(sub="a\nb"),
    "too long": lambda: signed(junk="x" * 9000),
    "not a token": lambda: "abc",
    "nothing": lambda: "",
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forgery_is_refused(forgery: str) -> None:
    await refused(Issuer().verifier(), FORGERIES[forgery]())


async def test_a_flood_of_unknown_keys_is_one_fetch() -> None:
    issuer = Issuer()
    verifier = issuer.verifier()
    await verifier.verify(signed())
    for number in range(50):
        await refused(verifier, signed(headers={"kid": f"flood{number}"}))
    assert issuer.asked == 1
    issuer.now += 11
    issuer.keys["k2"] = OTHER_KEY.public_key()
    assert (await verifier.verify(signed(OTHER_KEY, headers={"kid": "k2"}))).user_id == "ann"
    assert issuer.asked == 2


async def test_an_issuer_that_is_down_logs_nobody_out() -> None:
    issuer = Issuer()
    verifier = issuer.verifier()
    issuer.up = False
    await refused(verifier, signed(), 503)
    issuer.up = True
    issuer.now += 11
    await verifier.verify(signed())
    issuer.up = False
    issuer.now += 10_000
    assert (await verifier.verify(signed())).user_id == "ann"


class Counting:
    """A verifier that knows every token, and counts how often it was asked."""

    def __init__(self, expires_at: float) -> None:
        self.asked = 0
        self.expires_at = expires_at

    async def verify(self, token: str) -> Principal:
        self.asked += 1
        if token == "bad":
            raise ApiError(401, "no")
        return Principal(token, None, None, False, self.expires_at)


async def test_a_token_is_remembered_for_a_minute_and_never_past_its_end() -> None:
    now = 1000.0
    inner = Counting(expires_at=1090.0)
    verifier = RememberingVerifier(inner, clock=lambda: now)
    for moment, asked in (
        (1000.0, 1),
        (1059.9, 1),
        (1060.0, 2),
        (1089.9, 2),
        (1090.0, 3),
        (1091.0, 4),
    ):
        now = moment
        assert (await verifier.verify("ann")).user_id == "ann"
        assert inner.asked == asked, moment
    assert (await verifier.verify("bob")).user_id == "bob"


async def test_refusals_are_not_remembered_and_memory_is_bounded() -> None:
    inner = Counting(expires_at=9e9)
    verifier = RememberingVerifier(inner, clock=lambda: 0.0)
    for _ in range(3):
        await refused(verifier, "bad")
    assert inner.asked == 3
    for number in range(TOKENS_REMEMBERED_MAX + 1):
        await verifier.verify(f"user{number}")
    asked = inner.asked
    await verifier.verify(f"user{TOKENS_REMEMBERED_MAX}")
    assert inner.asked == asked
    await verifier.verify("user0")
    assert inner.asked == asked + 1, "the oldest one had to go"


async def test_a_token_of_a_withdrawn_key_ends_within_the_minute() -> None:
    issuer = Issuer()
    now = time.time()
    verifier = RememberingVerifier(issuer.verifier(), clock=lambda: now)
    token = signed(exp=int(time.time()) + 3000)
    await verifier.verify(token)
    issuer.keys = {"k2": OTHER_KEY.public_key()}
    issuer.now += 301
    await verifier.verify(token)
    now += 61
    await refused(verifier, token)


async def test_the_key_of_dev_mode(tmp_path: Path) -> None:
    key = load_dev_key(tmp_path / "made" / "here")
    file = next((tmp_path / "made" / "here").iterdir())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_dev_key(tmp_path / "made" / "here").mint("a", ttl_s=1)
    verifier = DevVerifier(key, admin_role="system_admin")
    caller = await verifier.verify(key.mint("ann", ttl_s=60, roles=("system_admin",)))
    assert (caller.user_id, caller.is_system_admin) == ("ann", True)
    assert not (await verifier.verify(key.mint("ann", ttl_s=60))).is_system_admin
    await refused(verifier, load_dev_key(tmp_path / "other").mint("ann", ttl_s=60))
    await refused(verifier, signed())
    await refused(verifier, unsigned())
    file.chmod(0o644)
    with pytest.raises(DevKeyError, match="0600"):
        load_dev_key(tmp_path / "made" / "here")


async def test_tokens_of_dev_mode_are_worth_nothing_elsewhere(tmp_path: Path) -> None:
    await refused(Issuer().verifier(), load_dev_key(tmp_path).mint("root", ttl_s=60))


def test_without_dev_mode_an_issuer_is_required() -> None:
    with pytest.raises(ValidationError, match="OIDC_ISSUER"):
        ApiSettings()
    with pytest.raises(ValidationError, match="oidc_algorithms"):
        ApiSettings(oidc_issuer=ISSUER, oidc_audience="a", oidc_algorithms=("HS256",))
    with pytest.raises(ValidationError, match="https"):
        ApiSettings(oidc_issuer="http://id.example", oidc_audience="a")
    with pytest.raises(ValidationError, match="https"):
        ApiSettings(oidc_issuer=ISSUER, oidc_audience="a", oidc_jwks_url="http://id.example/keys")
    settings = ApiSettings(oidc_issuer=ISSUER, oidc_audience="a")
    assert settings.upstream_url is None


@pytest.mark.parametrize(
    ("document", "good"),
    [
        ({"issuer": ISSUER, "jwks_uri": "https://id.example/keys"}, True),
        ({"issuer": ISSUER + "/", "jwks_uri": "https://id.example/keys"}, False),
        ({"issuer": "https://evil.example", "jwks_uri": "https://id.example/keys"}, False),
        ({"issuer": ISSUER, "jwks_uri": "http://id.example/keys"}, False),
        ({"issuer": ISSUER, "jwks_uri": ["https://id.example/keys"]}, False),
        ({"issuer": ISSUER}, False),
        ([], False),
    ],
)
async def test_discovery_is_bound_to_the_issuer(document: Any, good: bool) -> None:
    issuer, asked = Issuer(), []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if request.url.path.endswith("/openid-configuration"):
            return httpx.Response(200, json=document)
        return issuer.answer(request)

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    keys = KeySet(None, client, issuer=ISSUER, algorithms=["RS256"])
    if good:
        assert await keys.key("k1") is not None
        assert asked == [f"{ISSUER}/.well-known/openid-configuration", "https://id.example/keys"]
    else:
        with pytest.raises(KeysUnavailable):
            await keys.key("k1")
        assert len(asked) == 1
