"""Spreads organisations of very different size over cells, shards and primaries, as the code does.

Their sizes follow Zipf's law: the k-th largest makes k**-a as many requests as the largest.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from functools import cache
from typing import Final

from redis.crc import key_slot

from taximeter.meter.wire.keys import ShardKeys, shard_of

HEAVY: Final = 5_000
"""So many of the largest are placed one by one; all others together are spread evenly."""
SLOTS: Final = 16_384
_STEEPEST: Final = 50.0


def power_sum(count: int, exponent: float) -> float:
    """The sum of k**-exponent for k from 1 to `count`; beyond 1,000 by Euler and Maclaurin."""
    first = min(count, 1_000)
    total: float = sum(k**-exponent for k in range(1, first + 1))
    if count > first:
        ends = (first**-exponent, count**-exponent)
        if abs(exponent - 1) < 1e-9:
            area = math.log(count / first)
        else:
            area = (count ** (1 - exponent) - first ** (1 - exponent)) / (1 - exponent)
        total += area + (ends[1] - ends[0]) / 2
    return total


@cache
def zipf_exponent(organisations: int, largest: float) -> float:
    """The exponent with which the largest of so many has this share of all requests."""
    low, high = 0.0, _STEEPEST
    for _ in range(60):
        middle = (low + high) / 2
        if 1 / power_sum(organisations, middle) < largest:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@cache
def heavy_shares(organisations: int, largest: float) -> tuple[float, ...]:
    """Shares of the largest organisations, largest first; what is left to 1 is all others."""
    exponent = zipf_exponent(organisations, largest)
    total = power_sum(organisations, exponent)
    return tuple(k**-exponent / total for k in range(1, min(organisations, HEAVY) + 1))


@dataclass(frozen=True, slots=True)
class Cell:
    """Organisations (by rank) of one cell, and its share of all requests."""

    heavy: tuple[int, ...]
    share: float


def fullest_cell(organisations: int, largest: float, cells: int) -> Cell:
    """The fullest of so many cells, when each organisation was put where most room was, largest
    first, as an operator would.
    """
    shares = heavy_shares(organisations, largest)
    filled = [(0.0, number) for number in range(cells)]
    members: list[list[int]] = [[] for _ in range(cells)]
    for rank, share in enumerate(shares):
        full, number = heapq.heappop(filled)
        members[number].append(rank)
        heapq.heappush(filled, (full + share, number))
    sums = [full for full, _ in sorted(filled, key=lambda one: one[1])]
    level = _water_level(sums, 1 - sum(shares))
    fullest = max(range(cells), key=lambda number: max(sums[number], level))
    return Cell(tuple(members[fullest]), max(sums[fullest], level))


def _water_level(filled: list[float], poured: float) -> float:
    """How high everything stands that stood lower, when so much was poured over all."""
    ordered = sorted(filled)
    below = 0.0
    for count, height in enumerate(ordered, 1):
        below += height
        level = (below + poured) / count
        if count == len(ordered) or level <= ordered[count]:
            return level
    raise AssertionError("the last one always takes it")


def shard_shares(organisations: int, largest: float, cell: Cell, shards: int) -> list[float]:
    """The share of all requests that each shard of a cell gets, by the code's own hash."""
    shares = heavy_shares(organisations, largest)
    found = [0.0] * shards
    for rank in cell.heavy:
        found[shard_of(f"org-{rank}", shards)] += shares[rank]
    rest = (cell.share - sum(found)) / shards
    return [share + rest for share in found]


@dataclass(frozen=True, slots=True)
class Node:
    """A primary: how many shards it has, and its share of all requests."""

    shards: int
    share: float


def fullest_primary(shares: list[float], primaries: int) -> Node:
    """The primary with most requests, when slots are cut into equal ranges."""
    loads, counts = [0.0] * primaries, [0] * primaries
    for shard, share in enumerate(shares):
        slot = key_slot(ShardKeys("tm", shard).meta.encode())
        number = slot * primaries // SLOTS
        loads[number] += share
        counts[number] += 1
    fullest = max(range(primaries), key=loads.__getitem__)
    return Node(counts[fullest], loads[fullest])
