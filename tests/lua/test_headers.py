"""Headers, code and docs say the same: a header that lies is worse than none."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from taximeter.meter.wire.codes import Code
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.limits import (
    AMOUNT_MAX,
    BALANCE_MAX,
    FREE_HOLD_TTL_MS,
    OPEN_HOLDS_MAX,
    OPERATIONS_PER_CALL_MAX,
    PAYLOAD_BYTES_MAX,
    TTL_MS_MAX,
)
from taximeter.meter.wire.scripts import expand, load_script, read_source

SCRIPTS = sorted(
    path.name[:-4] for path in files("taximeter.lua").iterdir() if path.name.endswith(".lua")
)
PARTS = sorted(
    path.name[:-4]
    for path in files("taximeter.lua").joinpath("lib").iterdir()
    if path.name.endswith(".lua")
)
ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


def header_and_body(name: str) -> tuple[str, str]:
    found = re.fullmatch(
        r"(#!lua[^\n]*)\n--\[\[ (.*?) \]\]\n(.*)", load_script(name).text, re.DOTALL
    )
    assert found, f"{name}: a script begins with #!lua and one header"
    return found.group(2), found.group(3)


def declared(word: str, source: str) -> set[str]:
    """What the lines `-- TAKES a, b: why` or `-- GIVES ...` of a part name."""
    lines = re.findall(rf"^-- {word} ([\w, ]+)", source, re.MULTILINE)
    return set(re.findall(r"\w+", " ".join(lines)))


def test_there_is_one_script_a_job() -> None:
    assert SCRIPTS == [
        "admit", "apply", "approve", "arrive", "barrier", "complete", "depart", "drain", "fence",
        "limit", "load",
        "note_postgres", "open", "operate", "permissions", "recount", "report", "resolve",
        "rotate", "snapshot", "sweep",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_header_names_the_script_its_invariant_its_replies_and_its_errors(name: str) -> None:
    header, _ = header_and_body(name)
    assert header.startswith(f"{name}: ")
    for part in ("\nInvariant: ", "\nRETURNS", "\nERRORS"):
        assert part in header


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_key_of_the_header_is_used_and_every_key_used_is_in_it(name: str) -> None:
    header, body = header_and_body(name)
    documented = [int(number) for number in re.findall(r"^KEYS\[(\d+)\]", header, re.MULTILINE)]
    assert documented == list(range(1, len(documented) + 1))
    used = {int(number) for number in re.findall(r"KEYS\[(\d+)\]", body)}
    if "KEYS[generation]" in body:
        used |= {4, 5}
    assert used == set(documented)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_argument_of_the_header_is_used(name: str) -> None:
    header, body = header_and_body(name)
    fixed = set(re.findall(r"^ARGV\[(\d+)\]", header, re.MULTILINE))
    assert fixed == set(re.findall(r"ARGV\[(\d+)\]", body)) | (
        {"1"} if "ARGV[1]" in body else set()
    )


@pytest.mark.parametrize("name", ["operate", "resolve", "apply", "load"])
def test_codes_of_the_header_are_those_of_the_code(name: str) -> None:
    header, body = header_and_body(name)
    documented = {
        int(number): word
        for number, word in re.findall(r"^  (-?\d) ([A-Z_]+)", header, re.MULTILINE)
    }
    assert documented == {code.value: code.name for code in Code if code.value in documented}
    answered = {int(number) for number in re.findall(r"'(-?\d)(?: [^']*)?'", body)} - {0}
    if name == "resolve":
        # The shared body has it; resolve never takes credit.
        answered -= {Code.INSUFFICIENT, Code.TOO_MANY_HOLDS}
    assert answered == set(documented)


@pytest.mark.parametrize("name", SCRIPTS)
def test_only_what_takes_memory_for_new_credit_is_refused_when_memory_is_out(name: str) -> None:
    first = load_script(name).text.partition("\n")[0]
    allowed = "allow-oom" in first.removeprefix("#!lua flags=").split(",")
    assert allowed is (name not in ("operate", "load", "open", "limit"))
    documented = re.search(rf"^\| `{name}` \| ([^|]+) \|", ARCHITECTURE.read_text(), re.MULTILINE)
    assert documented
    assert (documented.group(1) == "allow-oom") is allowed


@pytest.mark.parametrize("code", list(Code))
def test_docs_list_every_code_of_a_batch(code: Code) -> None:
    if code is not Code.GAP:
        assert re.search(
            rf"^\| {code.value} \| {code.name} \|", ARCHITECTURE.read_text(), re.MULTILINE
        )


def test_limits_are_the_same_in_lua_and_python() -> None:
    line = next(line for line in read_source("lib/shard").splitlines() if "AMOUNT_MAX" in line)
    names, values = re.fullmatch(r"local (.+) = (.+)", line).groups()  # type: ignore[union-attr]
    assert dict(zip(names.split(", "), map(float, values.split(", ")), strict=True)) == {
        "AMOUNT_MAX": AMOUNT_MAX,
        "BALANCE_MAX": BALANCE_MAX,
        "PAYLOAD_BYTES_MAX": PAYLOAD_BYTES_MAX,
        "TTL_MS_MAX": TTL_MS_MAX,
    }
    assert f"local OPEN_HOLDS_MAX = {OPEN_HOLDS_MAX}\n" in read_source("lib/decide")
    assert f"local FREE_HOLD_TTL_MS = {FREE_HOLD_TTL_MS}\n" in read_source("lib/decide")
    assert f"count > {OPERATIONS_PER_CALL_MAX}" in read_source("lib/read")


@pytest.mark.parametrize("name", SCRIPTS)
def test_keys_come_in_one_order(name: str) -> None:
    """Each script takes those that it needs, in the order of ShardKeys."""
    header, _ = header_and_body(name)
    documented = re.findall(r"^KEYS\[\d+\] (\w+)", header, re.MULTILINE)
    order = [key.rpartition(":")[2] for key in ShardKeys("tm", 0).batch()]
    if name not in ("limit", "permissions"):  # They are bound to no shard.
        assert documented == [key for key in order if key in documented]


OF_LUA = set(
    re.findall(
        r"\w+",
        """and break do else elseif end false for function if in local nil not or return then true
        ipairs math next pairs redis string table tonumber type unpack KEYS ARGV""",
    )
)


def names_in(text: str) -> tuple[set[str], set[str]]:
    """The names that a piece of Lua uses, and those that it makes itself."""
    code = re.sub(r"--[^\n]*|'(?:[^'\\]|\\.)*'", "''", text)
    used = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", code)) - OF_LUA
    made = re.findall(r"\blocal (?!function)([\w, ]+)|\bfor ([\w, ]+?) (?==|in)", code)
    parameters = re.findall(r"\blocal function (\w+)\(([^)]*)\)", code)
    found = " ".join(" ".join(each) for each in (*made, *parameters))
    return used, set(re.findall(r"\w+", found))


@pytest.mark.parametrize("name", PARTS)
def test_a_part_says_what_it_takes_and_gives(name: str) -> None:
    """Nothing comes into a part unseen: its first lines name all that it does not make itself."""
    source = read_source(f"lib/{name}")
    taken = declared("TAKES", source)
    used, made = names_in(source)
    assert used - made == taken
    assert declared("GIVES", source) <= made


@pytest.mark.parametrize("name", ["operate", "resolve"])
def test_parts_of_a_batch_take_what_those_before_them_give(name: str) -> None:
    """Read, decide and write pass on nothing that is not in their first lines."""
    given = names_in(read_source(name).partition("]]\n")[2])[1]
    for part in re.findall(r'@include "lib/(\w+)"', read_source(name)):
        source = read_source(f"lib/{part}")
        assert declared("TAKES", source) <= given
        given |= declared("GIVES", source)
        if part not in ("read", "decide", "write"):
            given |= names_in(source)[1]


@pytest.mark.parametrize("name", SCRIPTS)
def test_money_never_leaves_lua_in_a_way_that_rounds(name: str) -> None:
    _, body = header_and_body(name)
    body = re.sub(r"^\s*--.*$", "", body, flags=re.MULTILINE)
    assert not re.search(r"tostring|cjson|%\.?\d*[efg]\b|HINCRBYFLOAT|loadstring|MAXLEN", body)


def test_a_bad_include_is_an_error() -> None:
    with pytest.raises(ValueError, match="twice"):
        expand('--- @include "lib/shard"\n--- @include "lib/shard"\n')
    with pytest.raises(FileNotFoundError):
        expand('--- @include "lib/missing"\n')


async def test_a_server_that_forgot_the_script_is_told_it_again(redis: Redis) -> None:
    await redis.script_flush()
    with pytest.raises(NoScriptError):
        await redis.evalsha(load_script("fence").sha, 1, "{tm:0}:meta", "test")
    assert await load_script("fence").call(redis, ["{tm:0}:meta"], ["test"]) == b""
    assert (await redis.script_exists(load_script("fence").sha)) == [True]
