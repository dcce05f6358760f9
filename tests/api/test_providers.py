"""Who becomes what by tokens of Keycloak, Entra ID and Google, with the settings of
docs/production.md: shapes as the vendors document them, signed with a key of our own.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from pydantic import ValidationError

from taximeter.api.access.oidc_claims import claim_at, roles_of
from taximeter.api.access.sessions import Principal
from taximeter.api.processes.api_services import make_keys, make_verifier
from taximeter.api.settings.api import ApiSettings
from taximeter.api.settings.oidc import ClaimPaths
from taximeter.api.web.errors import ApiError

PAGE = (Path(__file__).parents[2] / "docs" / "production.md").read_text(encoding="utf-8")
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

TENANT = "11111111-2222-3333-4444-555555555555"
ENTRA_CLIENT = "66666666-7777-8888-9999-000000000000"
ANN = "0a0a0a0a-1b1b-2c2c-3d3d-4e4e4e4e4e4e"

KEYCLOAK: dict[str, Any] = {
    "jti": "onrtac:6a1c", "iss": "https://id.example.com/realms/main",
    "aud": ["taximeter", "account"], "sub": ANN, "typ": "Bearer", "azp": "web", "sid": "s-1",
    "acr": "1", "allowed-origins": ["https://app.example.com"],
    "realm_access": {"roles": ["default-roles-main", "offline_access", "uma_authorization"]},
    "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}},
    "scope": "openid email profile", "email_verified": True, "name": "Ann Example",
    "preferred_username": "ann", "given_name": "Ann", "family_name": "Example",
    "email": "ann@example.com",
}  # fmt: skip
ENTRA: dict[str, Any] = {
    "aud": ENTRA_CLIENT, "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0",
    "aio": "AXQAi/8IAAAA", "azp": "77777777-0000-0000-0000-000000000000", "azpacr": "0",
    "name": "Ann Example", "oid": ANN, "preferred_username": "ann@example.com",
    "rh": "0.AXEA.", "scp": "access_as_user", "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
    "tid": TENANT, "uti": "fqiBqXLPj0eQa82S-IYFAA", "ver": "2.0",
}  # fmt: skip
GOOGLE: dict[str, Any] = {
    "iss": "https://accounts.google.com", "azp": "1234567890-abc.apps.googleusercontent.com",
    "aud": "1234567890-abc.apps.googleusercontent.com", "sub": "10769150350006150715113082367",
    "hd": "example.com", "email": "ann@example.com", "email_verified": True,
    "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q", "nonce": "0394852-3190485-2490358", "name": "Ann Example",
    "picture": "https://lh3.googleusercontent.com/a/x", "given_name": "Ann",
}  # fmt: skip


def settings_of(provider: str, **changes: str) -> ApiSettings:
    """The block of the page that begins with this name, as a process would read it."""
    [block] = re.findall(rf"^```ini\n# {provider}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = dict(line.split("=", 1) for line in block.splitlines())
    values = {name: "".join(shlex.split(value)) for name, value in lines.items()} | changes
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        return ApiSettings()


async def caller(settings: ApiSettings, claims: Mapping[str, Any]) -> Principal:
    """Who it is that shows these claims, signed by the issuer that the settings name."""
    issuer = settings.oidc_issuer or ""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/.well-known/openid-configuration"):
            keys = f"{issuer}/keys"
            return httpx.Response(200, json={"issuer": issuer, "jwks_uri": keys})
        # Entra's keys name no algorithm.
        jwk = {**json.loads(RSAAlgorithm.to_jwk(KEY.public_key())), "kid": "k1", "use": "sig"}
        return httpx.Response(200, json={"keys": [jwk]})

    now = int(time.time())
    dated = {"iat": now, "nbf": now, "exp": now + 300, **claims}
    token = jwt.encode(dated, KEY, "RS256", headers={"kid": "k1"})
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        return await make_verifier(settings, make_keys(settings, client)).verify(token)


async def refusal(settings: ApiSettings, claims: Mapping[str, Any]) -> str:
    with pytest.raises(ApiError) as error:
        await caller(settings, claims)
    assert error.value.status == 401
    return str(error.value.message)


async def test_keycloak() -> None:
    settings = settings_of("keycloak")
    ann = await caller(settings, KEYCLOAK)
    assert (ann.user_id, ann.email, ann.name) == (ANN, "ann@example.com", "Ann Example")
    assert (ann.email_verified, ann.is_system_admin) == (True, False)
    root = {**KEYCLOAK, "realm_access": {"roles": ["offline_access", "system_admin"]}}
    assert (await caller(settings, root)).is_system_admin
    # A role of that name of another client is none of ours.
    other = {**KEYCLOAK, "resource_access": {"web": {"roles": ["system_admin"]}}}
    assert not (await caller(settings, other)).is_system_admin
    unverified = await caller(settings, {**KEYCLOAK, "email_verified": False})
    assert not unverified.email_verified
    # Without the mapper of the audience; and the ID and refresh tokens of the same login.
    await refusal(settings, {**KEYCLOAK, "aud": "account"})
    await refusal(settings, {**KEYCLOAK, "iss": "https://id.example.com/realms/other"})
    for kind in ("ID", "Refresh", "Offline", "Logout"):
        await refusal(settings, {**KEYCLOAK, "typ": kind})


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("resource_access.taximeter.roles", {"resource_access": {"taximeter": {"roles": ["r"]}}}),
        # A client whose id has dots.
        ("resource_access.api.example.com.roles",
         {"resource_access": {"api": {}, "api.example.com": {"roles": ["x", "r"]}}}),
        ("groups", {"groups": ["/staff", "r"]}),
    ],
)  # fmt: skip
async def test_keycloak_roles_of_clients_and_groups(path: str, claims: dict[str, Any]) -> None:
    settings = settings_of("keycloak", TAXIMETER_OIDC_ROLES_CLAIM=path, TAXIMETER_ADMIN_ROLE="r")
    assert (await caller(settings, {**KEYCLOAK, **claims})).is_system_admin
    assert not (await caller(settings, KEYCLOAK)).is_system_admin


async def test_entra() -> None:
    settings = settings_of("entra")
    ann = await caller(settings, ENTRA)
    assert (ann.user_id, ann.email, ann.name) == (ANN, None, "Ann Example")
    assert (ann.email_verified, ann.is_system_admin) == (False, False)
    assert (await caller(settings, {**ENTRA, "roles": ["system_admin"]})).is_system_admin
    # An address is anybody's to write there, unless Entra vouches for it.
    written = {**ENTRA, "email": "root@example.com"}
    assert not (await caller(settings, written)).email_verified
    for true in (True, 1, "1", "true"):
        vouched = await caller(settings, {**written, "xms_edov": true})
        assert (vouched.email, vouched.email_verified) == ("root@example.com", True)
    for false in (False, 0, "0", "false", None, [True], {"x": 1}):
        assert not (await caller(settings, {**written, "xms_edov": false})).email_verified
    another = "99999999-2222-3333-4444-555555555555"
    said = await refusal(settings, {**ENTRA, "tid": another})
    assert said == "The session token does not have the tid that is accepted here"
    await refusal(settings, {**ENTRA, "iss": f"https://login.microsoftonline.com/{another}/v2.0"})
    # Version 1; an ID token, and an application's own, of the same registration.
    v1 = {"iss": f"https://sts.windows.net/{TENANT}/", "aud": f"api://{ENTRA_CLIENT}", "ver": "1.0"}
    await refusal(settings, {**ENTRA, **v1})
    without_scope = {name: value for name, value in ENTRA.items() if name != "scp"}
    await refusal(settings, {**without_scope, "nonce": "n"})
    await refusal(settings, {**without_scope, "idtyp": "app", "roles": ["system_admin"]})
    several = {**ENTRA, "scp": "Other.Read access_as_user"}
    assert (await caller(settings, several)).user_id == ANN


async def test_entra_groups() -> None:
    group = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
    settings = settings_of("entra", TAXIMETER_OIDC_ROLES_CLAIM="groups", TAXIMETER_ADMIN_ROLE=group)
    assert (await caller(settings, {**ENTRA, "groups": [ANN, group]})).is_system_admin
    # More groups than fit: Entra says where to ask for them instead, and we do not ask.
    overage = {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "x"}}}
    assert not (await caller(settings, {**ENTRA, **overage})).is_system_admin


async def test_google() -> None:
    settings = settings_of("google")
    ann = await caller(settings, GOOGLE)
    assert (ann.user_id, ann.email) == ("10769150350006150715113082367", "ann@example.com")
    assert (ann.email_verified, ann.is_system_admin) == (True, False)
    # Whatever roles somebody gets into a token of theirs, Google names none.
    assert not (await caller(settings, {**GOOGLE, "roles": ["system_admin"]})).is_system_admin
    private = {name: value for name, value in GOOGLE.items() if name != "hd"}
    await refusal(settings, {**private, "email": "ann@gmail.com"})
    await refusal(settings, {**GOOGLE, "hd": "example.org"})
    await refusal(settings, {**GOOGLE, "hd": "example.com.evil.org"})
    await refusal(settings, {**GOOGLE, "hd": "evil.org example.com"})
    await refusal(settings, {**GOOGLE, "aud": "other.apps.googleusercontent.com"})
    several = settings_of(
        "google", TAXIMETER_OIDC_REQUIRED_CLAIMS='{"hd": ["example.com", "example.org"]}'
    )
    assert (await caller(several, {**GOOGLE, "hd": "example.org"})).email_verified
    # ID tokens are let in where that is said, and nowhere else.
    await refusal(settings_of("google", TAXIMETER_OIDC_ID_TOKENS="false"), GOOGLE)


async def test_everybody_at_google_is_said(caplog: pytest.LogCaptureFixture) -> None:
    await caller(settings_of("google"), GOOGLE)
    assert "anybody" not in caplog.text
    await caller(settings_of("google", TAXIMETER_OIDC_REQUIRED_CLAIMS="{}"), GOOGLE)
    assert "anybody with a Google account has a session here" in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"TAXIMETER_OIDC_REQUIRED_CLAIMS": '{"hd": ""}'}, "must name a value for hd"),
        ({"TAXIMETER_OIDC_REQUIRED_CLAIMS": '{"hd": []}'}, "must name a value for hd"),
        ({"TAXIMETER_OIDC_REQUIRED_CLAIMS": '{"": "x"}'}, "must name a value for each claim"),
        ({"TAXIMETER_OIDC_ONLY_ACCESS_TOKENS": "1"}, "unset one of them"),
    ],
)
def test_settings_that_contradict_are_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings_of("google", **changes)


def test_the_longest_name_is_the_one_that_is_meant() -> None:
    claims = {"a": {"b": 1, "b.c": {"d": 2}}, "a.b": {"c": 3}, "https://x.example/roles": ["r"]}
    assert claim_at(claims, "a.b.c") == 3
    assert claim_at({"a": claims["a"]}, "a.b.c.d") == 2
    assert claim_at(claims, "https://x.example/roles") == ["r"]
    for nothing in ("x", "a.x", "a.b.c.d.e", "https://x.example/roles.x"):
        assert claim_at(claims, nothing) is None
    assert roles_of(claims, ClaimPaths(roles="https://x.example/roles")) == {"r"}
