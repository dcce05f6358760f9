"""A process that was taken over, with the password of its Redis user: it gets no further than its
role, on every server that is supported.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ResponseError
from support.servers import ValkeyFactory

from taximeter.api.commands import group
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter.server.permissions import NEWEST_RULES, ROLES, check_permissions

PASSWORD = "not-a-secret"
ADMIN_PASSWORD = "the-password-of-the-administrator"
PREFIX = "tm"
DEBIAN_REDIS = Path("/usr/bin/redis-server")

ANYBODY = {"auth", "hello", "quit", "reset"}
"""What Redis lets everybody send, logged in or not: none of it gives a right without a password."""
FOREIGN = (
    "secret",
    "tm",
    "tm:limitless",
    "{tm}:accounts",
    "{other:0}:accounts",
    "{tm:0",
    "arq:queue",
)
"""Keys of others on the same server, and keys that only look like ours."""


@pytest.fixture(params=["valkey", "redis 7.0"])
def server(request: pytest.FixtureRequest, valkey_server: ValkeyFactory) -> EmbeddedValkey:
    # Not even what the server itself would refuse may be what stops somebody.
    arguments = ("--enable-debug-command", "yes", "--enable-module-command", "yes")
    if request.param == "valkey":
        return valkey_server(*arguments)
    if not DEBIAN_REDIS.exists():
        pytest.skip(f"{DEBIAN_REDIS} is missing: install Debian's package redis-server")
    return valkey_server(*arguments, binary=DEBIAN_REDIS)


@pytest.fixture
async def admin(server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """The administrator of a server that has a password, and a user for every role."""
    redis = Redis.from_url(server.url, decode_responses=True)
    version = (await redis.info("server"))["redis_version"]
    for role in ROLES:
        asked = ["acl", "--role", role, "--user", role, "--server-version", version]
        printed = CliRunner().invoke(group, asked)
        assert printed.exit_code == 0, printed.output
        await redis.execute_command(*printed.output.split(), f">{PASSWORD}")
    await redis.config_set("requirepass", ADMIN_PASSWORD)
    for key in FOREIGN:
        await redis.set(key, "worth something")
    yield redis
    await redis.aclose()


def logged_in(server: EmbeddedValkey, role: str) -> Redis:
    return Redis.from_url(server.url, username=role, password=PASSWORD, decode_responses=True)


async def every_command(redis: Redis) -> dict[str, int]:
    """Name, as rules spell it, and arity of everything that the server can do."""

    def of(described: list[Any]) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, arity, *_, below in described:
            found |= {name.lower(): abs(arity), **of(below)}
        return found

    # The library's own parser leaves the commands below others out.
    redis.connection_pool.connection_kwargs["protocol"] = 2
    redis.set_response_callback("COMMAND", lambda answer, **_: answer)
    return of(await redis.execute_command("COMMAND"))


def says_no(answer: object) -> bool:
    """Whether this is how a server refuses what a user may not do, in a script or outside."""
    return bool(
        re.search(r"(?i)permission|can't access at least one|not allowed from", str(answer))
    )


async def is_refused(user: Redis, *command: str) -> bool:
    try:
        await user.execute_command(*command)
    except ResponseError as error:
        return says_no(error)
    return False


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_no_role_gets_a_command_that_it_was_not_given(
    admin: Redis, server: EmbeddedValkey, role: str
) -> None:
    commands = await every_command(admin)
    assert {"config|get", "acl|setuser", "client|kill", "module|load", "shutdown", "flushall",
            "debug", "replicaof", "keys", "subscribe"} <= set(commands)  # fmt: skip
    version = tuple((await admin.info("server"))["redis_version"].split(".")[:2])
    given = set(ROLES[role].commands_for(tuple(map(int, version)))) | ANYBODY
    assert given - ANYBODY <= set(commands), "a rule is about a command that is not there"
    escaped = []
    for name, arity in sorted(commands.items()):
        if name in given or name.partition("|")[0] in given:
            continue
        words = name.split("|")
        # With as many arguments as it asks for: that is looked at before the permission.
        async with logged_in(server, role) as user:
            if not await is_refused(user, *words, *["1"] * max(0, arity - len(words))):
                escaped.append(name)
    # A container without one of its commands says only that it wants one.
    containers = {name.partition("|")[0] for name in commands if "|" in name}
    assert set(escaped) <= containers, set(escaped) - containers
    assert await admin.ping()


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_no_role_reads_the_password_of_the_administrator(
    admin: Redis, server: EmbeddedValkey, role: str
) -> None:
    async with logged_in(server, role) as user:
        for attempt in (
            ("CONFIG", "GET", "requirepass"),
            ("CONFIG", "GET", "*"),
            ("EVAL", "return redis.call('CONFIG', 'GET', 'requirepass')", "0"),
            ("EVAL", "return redis.pcall('CONFIG', 'GET', '*')['err']", "0"),
            ("EVAL", "return redis.call('ACL', 'GETUSER', 'default')", "0"),
            ("EVAL", "#!lua flags=allow-oom\nreturn redis.call('CONFIG', 'REWRITE')", "0"),
        ):
            try:
                answer = await user.execute_command(*attempt)
            except ResponseError as error:
                answer = str(error)
            assert ADMIN_PASSWORD not in str(answer)
            assert says_no(answer), answer
        assert ADMIN_PASSWORD not in str(await user.info("everything"))
        with pytest.raises(AuthenticationError):
            await user.execute_command("AUTH", "default", "")
        await user.execute_command("HELLO", "2")


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_no_role_reaches_a_key_that_is_not_ours(
    admin: Redis, server: EmbeddedValkey, role: str
) -> None:
    keyed = {  # A call of every command that some role has and that takes a key.
        "exists": ["*"], "hdel": ["*", "f"], "hget": ["*", "f"], "hgetall": ["*"], "hlen": ["*"],
        "hmget": ["*", "f"], "hscan": ["*", "0"], "hset": ["*", "f", "v"], "lindex": ["*", "0"],
        "llen": ["*"], "ltrim": ["*", "0", "1"], "pexpire": ["*", "1"], "rename": ["*", "*"],
        "rpush": ["*", "v"], "unlink": ["*"], "xadd": ["*", "1-1", "f", "v"],
        "xrange": ["*", "-", "+"], "xrevrange": ["*", "+", "-"],
        "xtrim": ["*", "MINID", "1-1"], "zadd": ["*", "1", "m"], "zcard": ["*"],
        "zcount": ["*", "0", "1"], "zrange": ["*", "0", "1"], "zrangebyscore": ["*", "0", "1"],
        "zrem": ["*", "m"], "zscore": ["*", "m"], "xinfo|stream": ["*"],
    }  # fmt: skip
    without_a_key = {"info", "time", "wait", "waitaof", "eval", "evalsha", "multi", "exec", "ping",
                     "client|setinfo", "client|setname", "select", "asking", "cluster|info",
                     "cluster|slots"} | ANYBODY  # fmt: skip
    given = set(ROLES[role].commands_for()) - without_a_key
    assert given <= set(keyed), "say how this command is called"
    async with logged_in(server, role) as user:
        for name in sorted(given):
            for key in FOREIGN:
                words = [*name.split("|"), *(key if word == "*" else word for word in keyed[name])]
                assert await is_refused(user, *words), words
                called = ", ".join(f"'{word}'" for word in words)
                assert await is_refused(user, "EVAL", f"return redis.call({called})", "0"), words
        for key in FOREIGN:
            assert await is_refused(user, "EVAL", "return 1", "1", key)
    assert await admin.mget(*FOREIGN) == ["worth something"] * len(FOREIGN)


async def test_gateways_reach_no_counters_of_the_api(admin: Redis, server: EmbeddedValkey) -> None:
    async with logged_in(server, "meter") as meter, logged_in(server, "settler") as settler:
        for user in (meter, settler):
            assert await is_refused(user, "EVAL", "return 1", "1", "tm:limit:reads:ann")
    async with logged_in(server, "api") as api:
        assert not await is_refused(api, "EVAL", "return 1", "1", "tm:limit:reads:ann")


async def test_a_user_that_still_has_config_is_named_in_the_log(
    admin: Redis, server: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    key = f"{{{PREFIX}:0}}:meta"
    async with logged_in(server, "meter") as user:
        await check_permissions(user, ROLES["meter"], key)
        assert "CONFIG" not in caplog.text
        await admin.execute_command("ACL", "SETUSER", "meter", "+config|get")
        await check_permissions(user, ROLES["meter"], key)
    assert "'meter' may run CONFIG" in caplog.text
    assert ADMIN_PASSWORD not in caplog.text


@pytest.mark.parametrize("version", ["6.2", "seven", "7.x", "", "-1", "7" * 9])
def test_a_version_that_is_none_is_refused_in_one_line(version: str) -> None:
    printed = CliRunner().invoke(group, ["acl", "--role", "api", "--server-version", version])
    assert printed.exit_code == 2
    assert "'--server-version'" in printed.output
    assert "ACL SETUSER" not in printed.output


def test_only_newer_servers_are_told_of_newer_commands() -> None:
    for role in ROLES.values():
        older, newer = set(role.commands_for((7, 0))), set(role.commands_for(NEWEST_RULES))
        assert newer - older <= {"client|setinfo", "waitaof"}
        assert not {"config", "config|get"} & newer
        assert role.rules(PREFIX, (7, 0)) != role.rules(PREFIX, (8, 1)) == role.rules(PREFIX)
