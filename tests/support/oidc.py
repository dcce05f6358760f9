"""The certified `oidc-provider` as a process, and short words for what a client does with it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from taximeter.api.embedded.machine import free_port

SOURCES = Path(__file__).parents[1] / "oidc"
CACHE = Path(__file__).parents[2] / ".cache" / "oidc"
AUDIENCE = "https://api.taximeter.example"
NODE_MIN = 18
CLIENT = ("machine", "for-tests")
BACK = "http://127.0.0.1/back"


def installed_provider() -> Path:
    """The folder of node_modules, installed once a checkout. Skips when that cannot be done."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("SESSIONS ARE NOT TESTED against a real provider: install nodejs and npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < NODE_MIN:
        pytest.skip(f"SESSIONS ARE NOT TESTED against a real provider: node {version} is too old")
    wanted = (SOURCES / "package.json").read_text()
    done = CACHE / "installed.json"
    if not done.exists() or done.read_text() != wanted:
        CACHE.mkdir(parents=True, exist_ok=True)
        (CACHE / "package.json").write_text(wanted)
        # No lock file: it would name a registry. The one direct dependency is pinned.
        finished = subprocess.run(
            [npm, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=CACHE,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if finished.returncode != 0:
            pytest.skip(f"SESSIONS ARE NOT TESTED: npm install failed: {finished.stderr[-500:]}")
        done.write_text(wanted)
    return CACHE / "node_modules"


@dataclass
class Provider:
    """A running provider."""

    issuer: str
    client: httpx.Client

    def change(self, **what: Any) -> dict[str, Any]:
        """What POST /test of provider.mjs takes; answers how often its keys were asked for."""
        answer: dict[str, Any] = self.client.post("/test", json=what).json()
        return answer

    def token(self, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """An access token of the machine, with other claims than the provider would write."""
        self.change(claims=claims, header=header or {})
        response = self.client.post(
            "/token", data={"grant_type": "client_credentials"}, auth=CLIENT
        )
        assert response.status_code == 200, response.text
        self.change(claims={}, header={})
        token: str = response.json()["access_token"]
        return token

    def log_in(self, user: str, **claims: Any) -> dict[str, str]:
        """Both tokens of a person who logs in: the authorization code flow, page by page."""
        self.change(claims=claims)
        self.client.cookies.clear()
        query = {
            "client_id": CLIENT[0],
            "response_type": "code",
            "redirect_uri": BACK,
            "scope": "openid email",
            "nonce": "n-1",
        }
        where = self.walk(f"/auth?{urlencode(query)}", user, BACK)
        code = parse_qs(urlsplit(where).query)["code"][0]
        body = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK}
        answer = self.client.post("/token", data=body, auth=CLIENT)
        assert answer.status_code == 200, answer.text
        self.change(claims={})
        tokens: dict[str, str] = answer.json()
        return tokens

    def walk(self, address: str, user: str, back: str) -> str:
        """Where somebody ends who goes to an address of the provider, says who they are wherever
        that is asked for, and agrees to everything: an address that begins with `back`.
        """
        response = self.client.get(address)
        for _ in range(12):
            if response.is_redirect:
                where = response.headers["location"]
                if where.startswith(back):
                    return str(where)
                response = self.client.get(where)
                continue
            page = str(response.url)
            if "/session/end" in page:
                form = dict(re.findall(r'name="(xsrf)" value="(\w+)"', response.text))
                response = self.client.post("/session/end/confirm", data={**form, "logout": "yes"})
                continue
            prompt = "login" if 'name="login"' in response.text else "consent"
            form = {"prompt": prompt, "login": user, "password": "any"}
            response = self.client.post(page, data=form)
        pytest.fail(f"the provider led nowhere: {response.text[:500]}")


@contextmanager
def running_provider(modules: Path) -> Iterator[Provider]:
    node = shutil.which("node")
    assert node is not None, "installed_provider has looked"
    port = free_port()
    process = subprocess.Popen(
        [node, str(SOURCES / "provider.mjs"), str(modules), str(port), AUDIENCE],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("listening"):
                break
        else:
            pytest.fail(f"the provider ended: {said}")
        issuer = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=issuer, trust_env=False, timeout=20) as client:
            yield Provider(issuer, client)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
