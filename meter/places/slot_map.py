"""Reads which primary has which slot, as one node of the cluster sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from taximeter.meter.places.seeds import Address
from taximeter.meter.wire.replies import text_of

SLOTS: Final = 16_384


class SlotMap:
    """The owner of every slot. `nodes` are all that have been named, replicas included: any of them
    may be asked for the next map.
    """

    def __init__(self) -> None:
        self._owners: list[Address | None] = [None] * SLOTS
        self._ids: dict[Address, str] = {}
        self.nodes: list[Address] = []

    @classmethod
    def read(cls, reply: Sequence[Any], asked: Address) -> SlotMap:
        """Out of the answer to CLUSTER SLOTS of the node `asked`. Raises ValueError when it is not
        one.
        """
        made = cls()
        nodes: dict[Address, None] = {}
        try:
            for low, high, *servers in reply:
                found = [_address(server, asked) for server in servers]
                nodes |= dict.fromkeys(one for one in found if one is not None)
                made._ids |= {
                    one: text_of(server[2])
                    for one, server in zip(found, servers, strict=True)
                    if one is not None and len(server) > 2
                }
                first, last = int(low), int(high)
                if not 0 <= first <= last < SLOTS:
                    raise ValueError(f"slots {first} to {last}")
                made._owners[first : last + 1] = [found[0]] * (last + 1 - first)
        except (TypeError, IndexError) as error:
            raise ValueError(f"not an answer to CLUSTER SLOTS: {reply!r:.80}") from error
        made.nodes = list(nodes)
        return made

    def owner(self, slot: int) -> Address | None:
        """None while no primary has it."""
        return self._owners[slot]

    def has_slots(self, node: Address) -> bool:
        return node in self._owners

    @property
    def primaries(self) -> list[Address]:
        """Of `nodes` those that have slots."""
        owners = set(self._owners)
        return [node for node in self.nodes if node in owners]

    def same(self, other: SlotMap, node: Address) -> Address:
        """What this map calls a node of another one: nodes may know it by other addresses."""
        known = other._ids.get(node)
        return next((here for here, name in self._ids.items() if name == known), node)

    def move(self, slot: int, to: Address) -> None:
        """As a node has just said."""
        self._owners[slot] = to


def _address(server: Sequence[Any], asked: Address) -> Address | None:
    """An empty host is the one that was asked; a host that a node does not know is a question mark,
    and then there may be its address beside.
    """
    host, port = text_of(server[0]), int(server[1])
    if host == "?":
        more: Any = server[3] if len(server) > 3 else []
        pairs = more.items() if isinstance(more, dict) else zip(more[::2], more[1::2], strict=False)
        beside = {text_of(name): text_of(value) for name, value in pairs}
        host = beside.get("ip", "?")
    return None if host == "?" else (host or asked[0], port)
