"""The console's files: what is kept for how long, what the page may load, and which addresses it
leaves alone.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import httpx
from browser.conftest import SCRIPT
from support.world import World

from taximeter.api.browser.files import NOT_BUILT

ASSET = "/console/assets/index-abc123.js"


def policy_of(answer: httpx.Response) -> dict[str, list[str]]:
    parts = answer.headers["content-security-policy"].split(";")
    return {name: rest for name, *rest in (part.split() for part in parts)}


async def test_the_page_is_never_kept_and_lets_nothing_in(world: World, built: Path) -> None:
    """Every address of the console is the same page, each time with another nonce."""
    root = await world.client.get("/")
    assert (root.status_code, root.headers["location"]) == (307, "console/")
    nonces = set()
    places = ("/console", "/console/", "/console/org/acme/members?sort=held", "/console/a.b/c")
    for place in places:
        page = await world.client.get(place)
        assert page.status_code == 200, place
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["referrer-policy"] == "same-origin"
        policy = policy_of(page)
        (nonce,) = re.findall(r'csp-nonce" nonce="([\w-]+)"', page.text)
        assert policy["style-src"] == ["'self'", f"'nonce-{nonce}'"]
        assert policy["script-src"] == ["'self'"]
        assert policy["default-src"] == policy["frame-ancestors"] == ["'none'"]
        assert policy["base-uri"] == ["'none'"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert "CSP_NONCE" not in page.text
        assert "needs JavaScript" in page.text
        nonces.add(nonce)
    assert len(nonces) == len(places)
    head = await world.client.head("/console/")
    assert (head.status_code, head.content) == (200, b"")


async def test_files_with_a_hash_are_kept_for_ever_and_the_others_are_asked_for(
    world: World, built: Path
) -> None:
    plain = await world.client.get(ASSET, headers={"Accept-Encoding": "identity"})
    assert (plain.status_code, plain.content) == (200, SCRIPT)
    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.headers["content-type"] == "text/javascript; charset=utf-8"
    assert plain.headers["x-content-type-options"] == "nosniff"
    again = await world.client.get(
        ASSET, headers={"If-None-Match": plain.headers["etag"], "Accept-Encoding": "identity"}
    )
    assert (again.status_code, again.content) == (304, b"")
    other = await world.client.get("/console/favicon.svg")
    assert other.headers["cache-control"] == "no-cache"
    assert other.headers["content-type"] == "image/svg+xml"
    assert other.headers["etag"]


async def test_what_was_compressed_when_it_was_built_is_sent_so(world: World, built: Path) -> None:
    sent = {"br": b"as brotli packs it", "gzip": gzip.compress(SCRIPT), None: SCRIPT}
    for accepted, coding in (
        ("gzip, br", "br"),
        ("gzip;q=1.0", "gzip"),
        ("br;q=0, gzip", "gzip"),
        ("zstd", None),
    ):
        request = world.client.build_request("GET", ASSET, headers={"Accept-Encoding": accepted})
        answer = await world.client.send(request, stream=True)
        raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers.get("content-encoding") == coding
        assert answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert len(raw) == len(sent[coding])
        head = await world.client.head(ASSET, headers={"Accept-Encoding": accepted})
        assert head.headers["content-length"] == str(len(raw))


HIDDEN = (
    *("/console/assets/index-older.js", "/console/assets/", "/console/assets/..%2Findex.html"),
    *("/console/session/nothing", "/api/v1/nothing", "/v1/nothing", "/docs/nothing"),
    *("/.well-known/nothing", "/metrics", "/consoles", "/index.html"),
)


async def test_the_page_hides_nothing_else(world: World, built: Path) -> None:
    """What is not there is said to be not there, in the one shape of refusals."""
    for path in HIDDEN:
        answer = await world.client.get(path)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/json", path
        assert answer.json()["error"]["code"] == "NOT_FOUND"


async def test_a_page_that_is_anybodys_vouches_for_nobody(world: World, built: Path) -> None:
    """Who reads it with made-up credentials is no known caller afterwards; a cookie that is good
    for nothing counts as every other such.
    """
    strangers = world.app.outermost._strangers
    strangers._most = 600
    junk = {"Cookie": f"taximeter_session={'A' * 43}"}
    for path in ("/", "/console/", ASSET, "/docs", "/openapi.json", "/api/v1/system/status"):
        assert (await world.client.get(path, headers=junk)).status_code in (200, 307), path
    assert not strangers._known
    assert not strangers._left
    assert (await world.client.get("/console/session", headers=junk)).status_code == 200
    assert not strangers._known
    assert len(strangers._left) == 1


async def test_nothing_is_changed_at_the_pages_addresses(world: World, built: Path) -> None:
    assert (await world.client.post("/console/org/acme")).status_code == 405
    assert (await world.client.get("/docs")).status_code == 200
    assert (await world.client.get("/openapi.json")).json()["info"]["title"] == "Taximeter"


async def test_a_console_that_was_not_built_says_how(world: World, built: Path) -> None:
    (built / "index.html").unlink()
    page = await world.client.get("/console/")
    assert (page.status_code, page.text) == (404, NOT_BUILT)
    assert NOT_BUILT.count("\n") == 1
    assert "make console" in NOT_BUILT
    assert (await world.client.get("/api/v1/system/status")).status_code == 200
