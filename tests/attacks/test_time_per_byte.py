"""What a stranger or a key's holder sends costs processor time in proportion to its length,
whatever its shape: nobody stops a process for the others by a body that is read again and again.

Each shape comes short and many times longer; what is compared is the processor time of the serving
process by byte, in one run, so it matters not how fast or busy the machine is.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.processes import Running, running, same_books
from support.shard import ScriptedShard
from support.world import CHAT, World

from taximeter.api.access.dev_tokens import load_dev_key
from taximeter.meter.wire.keys import ShardKeys

RATIO_MAX = 4.0
"""Time per byte of the long one against the short one. What is quadratic reaches their quotient."""
TIMES = 12
SHORTS = 4
"""Requests with the short one that are measured together: the kernel may count the last one's time
later, and that must not be most of what there is.
"""
ROUNDS = 5
ANSWERED_WITHIN_S = 120
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Shape = Callable[[int], bytes]


DEEP = b"[" * 400 + b"]" * 400


def names(size: int) -> list[bytes]:
    return [b'"%x":1' % number for number in range(max(1, size // 9))]


VALUES: dict[str, Shape] = {
    "text": lambda n: b'"' + b"x" * n + b'"',
    "escapes": lambda n: b'"' + b"\\u00e9" * (n // 6) + b'"',
    "half surrogates": lambda n: b'"' + b"\\ud83d" * (n // 6) + b'"',
    "backslashes": lambda n: b'"' + b"\\\\" * (n // 2) + b'"',
    "many names": lambda n: b"{" + b",".join(names(n)) + b"}",
    "the last name twice": lambda n: b"{" + b",".join([*names(n), names(n)[-1]]) + b"}",
    "the first name twice": lambda n: b"{" + b",".join([*names(n), names(n)[0]]) + b"}",
    "one name": lambda n: b"{" + b",".join([b'"a":1'] * (n // 6)) + b"}",
    "a long name": lambda n: b'{"' + b"x" * n + b'":1}',
    "lists": lambda n: b"[" + b",".join([b"[]"] * (n // 3)) + b"]",
    "objects": lambda n: b"[" + b",".join([b"{}"] * (n // 3)) + b"]",
    "numbers": lambda n: b"[" + b",".join([b"1"] * (n // 2)) + b"]",
    "fractions": lambda n: b"[" + b",".join([b"1.5"] * (n // 4)) + b"]",
    "long numbers": lambda n: b"[" + b",".join([b"9" * 4300] * max(1, n // 4301)) + b"]",
    "one number": lambda n: b"9" * n,
    "a fraction": lambda n: b"0." + b"3" * n,
    "an exponent": lambda n: b"1e" + b"9" * n,
    "a negative exponent": lambda n: b"1e-" + b"9" * n,
    "depth": lambda n: b"[" * n,
    "depth of objects": lambda n: b'{"a":' * (n // 5),
    "depth that ends": lambda n: b"[" + b",".join([DEEP] * max(1, n // 800)) + b"]",
    "blanks": lambda n: b" " * n + b"1",
    "no end": lambda n: b'"' + b"x" * n,
    "no UTF-8": lambda n: b'"' + b"\xff" * n + b'"',
    "a constant": lambda n: b"[" + b"1," * (n // 2) + b"NaN]",
}  # fmt: skip


def in_field(field: bytes, shape: Shape, **others: Any) -> Shape:
    """A body of which one field has the shape."""
    rest = json.dumps({"org_id": "acme", "user_id": "ann", "request_id": "r", **others}).encode()
    return lambda n: rest[:-1] + b',"' + field + b'":' + shape(n) + b"}"


IN_FIELDS = ("text", "escapes", "many names", "objects", "long numbers", "a fraction",
             "an exponent", "depth that ends")  # fmt: skip
"""What is read first as a whole body, and then by the field it stands in."""
OPERATION = b'{"op":"touch","org_id":"acme","user_id":"ann","request_id":"%d"}'
SIDECAR: dict[str, tuple[str, Shape]] = {
    **{f"whole body: {name}": ("/v1/reserve", shape) for name, shape in VALUES.items()},
    **{
        f"amount: {name}": ("/v1/charge", in_field(b"amount_credits", VALUES[name]))
        for name in IN_FIELDS
    },
    **{
        f"metadata: {name}": (
            "/v1/charge",
            in_field(b"usage", lambda n, name=name: b'{"metadata":{"a":' + VALUES[name](n) + b"}}"),  # type: ignore[misc]
        )
        for name in IN_FIELDS
    },
    **{
        f"tokens: {name}": (
            "/v1/charge",
            in_field(
                b"tokens",
                lambda n, name=name: b'{"prompt_tokens":1,"a":' + VALUES[name](n) + b"}",  # type: ignore[misc]
                model="gpt-4o",
            ),
        )
        for name in IN_FIELDS
    },
    **{
        f"batch: {name}": ("/v1/batch", in_field(b"operations", VALUES[name]))
        for name in IN_FIELDS
    },
    "batch of one id": (
        "/v1/batch",
        lambda n: (
            b'{"operations":[' + b",".join([OPERATION % 1] * max(1, n // 2200)) + b"]}" + b" " * n
        ),
    ),
    "batch of unknown fields": (
        "/v1/batch",
        lambda n: b'{"operations":[{' + b",".join(names(n)) + b"}]}",
    ),
    "after the body": ("/v1/reserve", lambda n: b"{}" + b" " * n),
}  # fmt: skip


def cpu_ns(pid: int) -> int:
    """Processor time of all threads that serve."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((one / "schedstat").read_text().split()[0]) for one in threads)


async def time_per_byte(
    served: Running, send: Callable[[bytes], Any], shape: Shape, short: int, times: int = TIMES
) -> float:
    """Long against short; the least of ROUNDS, which end with the first that is flat.

    A round in which a store was slow to answer says nothing of the body, and is made again.
    """
    assert served.process.pid
    little, much = shape(short), shape(short * times)

    async def spent(content: bytes, requests: int) -> float | None:
        before = cpu_ns(served.process.pid)
        for _ in range(requests):
            answer = await send(content)
            if answer.status_code == 503:
                return None
            assert answer.status_code < 500, answer.text
        return (cpu_ns(served.process.pid) - before) / (len(content) * requests)

    async def one_round() -> tuple[float, float]:
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            while True:
                short_ns, long_ns = await spent(little, SHORTS), await spent(much, 1)
                if short_ns is not None and long_ns is not None:
                    return short_ns, long_ns

    ratio, least = float("inf"), float("inf")
    for _ in range(ROUNDS):
        short_ns, long_ns = await one_round()
        least = min(least, short_ns)
        ratio = min(ratio, long_ns / least)
        if ratio <= RATIO_MAX:
            break
    return ratio


@pytest.fixture
async def sidecar(redis: Any, redis_url: str) -> AsyncIterator[Running]:
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    await shard.load("acme/ann", 10**9)
    async with running(
        "sidecar", "--port", "0", redis_url=redis_url, strangers_per_minute=0
    ) as served:
        yield served


async def test_bodies_of_the_sidecar(sidecar: Running) -> None:
    steep = {}
    async with httpx.AsyncClient(base_url=sidecar.url, timeout=300, trust_env=False) as client:
        for name, (path, shape) in SIDECAR.items():

            async def send(content: bytes, path: str = path) -> httpx.Response:
                headers = {"Content-Type": "application/json"}
                return await client.post(path, content=content, headers=headers)

            ratio = await time_per_byte(sidecar, send, shape, 20_000)
            if ratio > RATIO_MAX:
                steep[name] = ratio
    assert not steep


HEADS: dict[str, Shape] = {
    "plain": lambda n: b"x" * n,
    "backslashes": lambda n: b'"' + b"\\\\" * (n // 2) + b'"',
    "escaped letters": lambda n: b'"' + b"\\a" * (n // 2) + b'"',
    "escaped digits": lambda n: b'"' + b"\\0" * (n // 2) + b'"',
    "quotes": lambda n: b'"' * n,
    "semicolons": lambda n: b";" * n,
    "pairs": lambda n: b"a=b;" * (n // 4),
    "quoted pairs": lambda n: b';a="' * (n // 4),
    "commas": lambda n: b"," * n,
    "equals": lambda n: b"=" * n,
    "blanks": lambda n: b"x" + b" " * n + b"x",
    "slashes": lambda n: b"/" * n,
    "percents": lambda n: b"%20" * (n // 3),
    "ampersands": lambda n: b"a=1&" * (n // 4),
    "dots": lambda n: b"." * n,
    "high": lambda n: b"\xe9" * n,
    "brackets": lambda n: b"Bearer " + base64.b64encode(b"[" * (n * 3 // 4)) + b".e30.e30",
}
SHORT_HEAD, HEAD_TIMES = 3_600, 8
NAMES = ("Cookie", "Authorization", "Content-Type", "Origin", "X-Org-Id", "X-Request-Id",
         "Idempotency-Key", "X-Taximeter-Key", "X-Original-Uri", "X-Taximeter-Cost")  # fmt: skip


def as_cookie(name: str, shape: Shape) -> Shape:
    return lambda n: b"session_token=" + shape(n) if name == "Cookie" else shape(n)


SOME_OR_ALL = pytest.mark.parametrize(
    "of", [3, pytest.param(1, marks=pytest.mark.long)], ids=["some", "all"]
)


async def steep_heads(served: Running, paths: tuple[str, ...], of: int) -> dict[str, float]:
    """Every shape in every header that somebody may send without a login, and in path and query;
    one of `of` such pairs.
    """
    steep = {}
    async with httpx.AsyncClient(base_url=served.url, timeout=300, trust_env=False) as client:
        for path in paths:
            for turn, (what, shape) in enumerate(HEADS.items()):
                for name in (*NAMES, "path", "query")[turn % of :: of]:

                    async def send(content: bytes, name: str = name, path: str = path) -> Any:
                        target, headers = path.encode(), {}
                        if name == "path":
                            target += b"/" + base64.urlsafe_b64encode(content)[: len(content)]
                        elif name == "query":
                            target += b"?" + content.replace(b" ", b"+").replace(b"\xe9", b"%")
                        else:
                            headers = {name: content}
                        url = httpx.URL(served.url).copy_with(raw_path=target)
                        try:
                            return await client.get(url, headers=headers)
                        except (
                            httpx.RemoteProtocolError
                        ):  # An answer, and the end of the connection.
                            return httpx.Response(400)

                    ratio = await time_per_byte(
                        served, send, as_cookie(name, shape), SHORT_HEAD, HEAD_TIMES
                    )
                    if ratio > RATIO_MAX:
                        steep[f"{path} {name} {what}"] = ratio
    return steep


@SOME_OR_ALL
async def test_heads_of_the_sidecar(sidecar: Running, of: int) -> None:
    assert not await steep_heads(sidecar, ("/auth/charge/1",), of)


@pytest.fixture
async def api(redis_url: str, app_database_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    settings = {"redis_url": redis_url, "database_url": app_database_url, "dev_mode": 1}
    async with running(
        "api",
        "--port",
        "0",
        **settings,
        data_dir=tmp_path,
        rate_limits=0,
        strangers_per_minute=0,
    ) as served:
        yield served


@SOME_OR_ALL
async def test_heads_of_the_api(api: Running, of: int) -> None:
    assert not await steep_heads(api, ("/api/v1/org-billing/credits/acme",), of)


@pytest.mark.whole
async def test_bodies_of_the_admin_api(api: Running, tmp_path: Path) -> None:
    token = load_dev_key(tmp_path).mint("ann", ttl_s=600, roles=("system_admin",))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    steep = {}
    async with httpx.AsyncClient(base_url=api.url, timeout=300, trust_env=False) as client:
        for path, names in (("subscriptions", tuple(VALUES)), ("credits/acme/allocate", IN_FIELDS)):
            for name in names:
                shapes = {name: VALUES[name]}
                if name in IN_FIELDS:
                    shapes[f"credits: {name}"] = in_field(b"credits", VALUES[name])
                    shapes[f"user_id: {name}"] = lambda n, name=name: (
                        b'{"user_id":' + VALUES[name](n) + b"}"
                    )
                for what, shape in shapes.items():

                    async def send(content: bytes, path: str = path) -> httpx.Response:
                        return await client.post(
                            f"/api/v1/org-billing/{path}", content=content, headers=headers
                        )

                    ratio = await time_per_byte(api, send, shape, 4_000)
                    if ratio > RATIO_MAX:
                        steep[f"{path} {what}"] = ratio
    assert not steep


def chat(field: str, shape: Shape) -> Shape:
    """A body of the LLM route of which one field has the shape; `messages` is there in any case."""
    start = b'{"model":"gpt-4o-mini","max_tokens":1,'
    if field != "messages":
        start += b'"messages":[{"role":"user","content":"Hi"}],'
    return lambda n: start + b'"' + field.encode() + b'":' + shape(n) + b"}"


def of(one: bytes) -> Shape:
    """A list of as many of these as there is room for."""
    return lambda n: b"[" + b",".join([one] * max(1, n // (len(one) + 1))) + b"]"


def content(shape: Shape) -> Shape:
    return chat("messages", lambda n: b'[{"role":"user","content":' + shape(n) + b"}]")


TOOL = b'{"type":"function","function":{"name":"f","description":"d","parameters":%s}}'
NESTED = b'{"a":' * 50 + b"1" + b"}" * 50
CALL = b'{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}'
IMAGE = b'{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}'
CHATS: dict[str, Shape] = {
    "many messages": chat("messages", of(b'{"role":"user","content":"Hello"}')),
    "empty messages": chat("messages", of(b"{}")),
    "many parts": content(of(b'{"type":"text","text":"Hello"}')),
    "empty parts": content(of(b"[]")),
    "images": content(of(IMAGE)),
    "many tools": chat("tools", of(TOOL % b"{}")),
    "deep tools": chat("tools", of(TOOL % NESTED)),
    "one deep tool": chat("tools", lambda n: b"[" + TOOL % (b'{"a":' * (n // 5)) + b"]"),
    "a tool of many names": chat("tools", lambda n: b"[" + TOOL % VALUES["many names"](n) + b"]"),
    "tool calls": chat(
        "messages",
        lambda n: b'[{"role":"assistant","content":null,"tool_calls":' + of(CALL)(n) + b"}]",
    ),
    "numbers": chat("logit_bias", lambda n: b"{" + b",".join(names(n)) + b"}"),
    "stops": chat("stop", of(b'"x"')),
    "metadata": chat("metadata", VALUES["many names"]),
    "a format": chat("response_format", VALUES["depth of objects"]),
    "unknown fields": lambda n: b'{"model":"gpt-4o-mini",' + b",".join(names(n)) + b"}",
    "a long model": lambda n: b'{"messages":[],"model":"' + b"/" * n + b'"}',
    **{
        f"content: {name}": content(VALUES[name])
        for name in (*IN_FIELDS, "half surrogates", "backslashes", "blanks", "no end", "no UTF-8")
    },
    "words": content(lambda n: b'"' + b"word and " * (n // 9) + b'"'),
    "no words": content(lambda n: b'"' + b"\xf0\x9f\x98\x80" * (n // 4) + b'"'),
}  # fmt: skip


@pytest.mark.whole
async def test_bodies_of_the_llm_route(world: World) -> None:
    await world.funded(credits=90.0)
    options = {**same_books(world), "upstream_base_url": world.settings.upstream_base_url}
    headers = {**world.auth("ann"), "Content-Type": "application/json"}
    steep = {}
    async with (
        running("api", "--port", "0", **options, strangers_per_minute=0) as api,
        httpx.AsyncClient(base_url=api.url, timeout=300, trust_env=False) as client,
    ):

        async def send(body: bytes) -> httpx.Response:
            return await client.post(CHAT, content=body, headers=headers)

        for name, shape in CHATS.items():
            ratio = await time_per_byte(api, send, shape, 8_000)
            if ratio > RATIO_MAX:
                steep[name] = ratio
    assert not steep
