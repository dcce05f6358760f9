"""The map of a cluster, its URL and its errors, without a server."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import redis.exceptions
from hypothesis import given
from hypothesis import strategies as st
from redis._parsers.base import BaseParser

from taximeter.meter.places.redirects import PASSING, Redirect, code_of, redirect_of
from taximeter.meter.places.seeds import read_seeds
from taximeter.meter.places.slot_map import SLOTS, SlotMap
from taximeter.meter.server.trouble import is_final

ASKED = ("asked", 7000)


@st.composite
def topologies(draw: st.DrawFn) -> list[list[Any]]:
    """An answer to CLUSTER SLOTS: ranges in any order, holes between them, replicas behind."""
    edges = sorted(draw(st.sets(st.integers(0, SLOTS), min_size=2, max_size=40)))
    ranges = []
    for low, end in pairwise(edges):
        if draw(st.booleans()):
            owner = draw(st.integers(0, 6))
            names = [
                [f"10.0.0.{owner}".encode(), 7000 + which, f"id{owner}{which}".encode(), []]
                for which in range(draw(st.integers(1, 3)))
            ]
            ranges.append([low, end - 1, *names])
    return draw(st.permutations(ranges))


@given(topologies(), st.integers(0, SLOTS - 1))
def test_every_slot_is_with_its_primary(topology: list[list[Any]], moved: int) -> None:
    made = SlotMap.read(topology, ASKED)
    wanted: dict[int, tuple[str, int]] = {}
    for low, high, (host, port, *_), *_ in topology:
        wanted |= dict.fromkeys(range(low, high + 1), (host.decode(), port))
    assert [made.owner(slot) for slot in range(SLOTS)] == [wanted.get(n) for n in range(SLOTS)]
    assert {(one[0].decode(), one[1]) for _, _, *all_ in topology for one in all_} == set(
        made.nodes
    )
    made.move(moved, ("new", 1))
    assert made.owner(moved) == ("new", 1)
    other = (moved + random.randrange(1, SLOTS)) % SLOTS
    assert made.owner(other) == wanted.get(other)


def test_hosts_that_a_node_does_not_say() -> None:
    made = SlotMap.read(
        [
            [0, 0, [None, 1, b"a"]],
            [1, 1, [b"", 2, b"b", []]],
            [2, 2, [b"?", 3, b"c", [b"ip", b"10.0.0.3"]]],
            [3, 3, [b"?", 4, b"d", {b"ip": b"10.0.0.4"}]],
            [4, 4, [b"?", 5, b"e", []]],
        ],
        ASKED,
    )
    found = [made.owner(slot) for slot in range(5)]
    assert found == [("asked", 1), ("asked", 2), ("10.0.0.3", 3), ("10.0.0.4", 4), None]


@pytest.mark.parametrize("reply", [[[0, SLOTS, [b"a", 1]]], [[5, 4, [b"a", 1]]], [[0]], [7]])
def test_what_is_no_map(reply: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        SlotMap.read(reply, ASKED)


def test_urls() -> None:
    several = read_seeds(
        "rediss://me:p%40ss@a:7000,b,[::1]:7002/0?service_name=m&ssl_cert_reqs=none"
    )
    assert several.addresses == (("a", 7000), ("b", 6379), ("::1", 7002))
    assert several.options["password"] == "p@ss"
    assert several.service_name == "m"
    assert several.at(("x", 1))["host"] == "x"
    assert read_seeds("redis://h/3").database == 3
    assert read_seeds("redis://").addresses == (("localhost", 6379),)
    assert read_seeds("unix:///run/r.sock?db=2").addresses == ()
    for url in ("http://a", "redis://a:x", "redis://a,,b", "redis://,", "redis://a:70000"):
        with pytest.raises(ValueError, match=r"."):
            read_seeds(url)


REPLIES = {
    "MOVED 3999 127.0.0.1:6381": Redirect("MOVED", 3999, "127.0.0.1", 6381),
    "ASK 3999 ::1:6381": Redirect("ASK", 3999, "::1", 6381),
    "MOVED 3999 :6381": Redirect("MOVED", 3999, "", 6381),
    "TRYAGAIN Multiple keys request during rehashing of slot": None,
    "CLUSTERDOWN Hash slot not served": None,
    "READONLY You can't write against a read only replica.": None,
    "LOADING Redis is loading the dataset in memory": None,
    "MASTERDOWN Link with MASTER is down": None,
}


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize(
    "place", ["", "Command # 2 (EVALSHA MOVED 1 a:1) of pipeline caused error: "]
)
@pytest.mark.parametrize("is_tuple", [False, True])
@pytest.mark.parametrize("has_class", [False, True])
def test_replies_that_pass(reply: str, place: str, is_tuple: bool, has_class: bool) -> None:
    """As any redis-py hands them on: as text alone, or in a class whose text lacks the code."""
    code = reply.partition(" ")[0]
    error: redis.exceptions.ResponseError = BaseParser.parse_error(reply)
    if has_class:
        known = {
            "MOVED": redis.exceptions.MovedError,
            "ASK": redis.exceptions.AskError,
            "TRYAGAIN": redis.exceptions.TryAgainError,
            "CLUSTERDOWN": redis.exceptions.ClusterDownError,
            "READONLY": redis.exceptions.ReadOnlyError,
            "LOADING": redis.exceptions.BusyLoadingError,
            "MASTERDOWN": redis.exceptions.MasterDownError,
        }
        error = known[code](reply.removeprefix(f"{code} "))
    if place:
        said = f"{error.args}" if is_tuple else f"{error}"
        error.args = (f"{place}{said}", *error.args[1:])
    assert not is_final(error) or place  # A lane sends no pipelines.
    assert redirect_of(error) == REPLIES[reply]
    if isinstance(error, redis.exceptions.ResponseError):
        assert code_of(error) == code
        assert code in PASSING


def test_what_a_user_wrote_sends_nobody_anywhere() -> None:
    said = redis.exceptions.ResponseError("ERR bad payload MOVED 1 evil:6379")
    assert redirect_of(said) is None
    assert is_final(said)
    assert redirect_of(redis.exceptions.ConnectionError("MOVED 1 a:1")) is None


def test_logins_of_sentinels() -> None:
    seeds = read_seeds("redis://me:mine@a,b/0?sentinel_username=you&sentinel_password=yours")
    assert seeds.sentinel_login == {"username": "you", "password": "yours"}
    assert (seeds.options["username"], seeds.options["password"]) == ("me", "mine")
    assert not any(name.startswith("sentinel") for name in seeds.options)
    assert read_seeds("redis://a?sentinel_password=p").sentinel_login == {"password": "p"}
    with pytest.raises(ValueError, match="names a sentinel_username without a sentinel_password"):
        read_seeds("redis://a?sentinel_username=you")
