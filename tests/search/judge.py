"""Brings a small world to rest and compares what was told with what the books have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from search.world import ACCOUNT, KEYS, Fact, World


def at_rest(world: World) -> World:
    """Everything heals, nobody asks any more, and the settler does what it does."""
    world = world.copy()
    for request in list(world.calls):
        world.give_up(request)
    world.set_oom(False)
    system = world.rules.system
    if world.walking is not None:
        system.walk_ends(world, world.walking)
    for _ in range(2):
        system.guard(world)
        system.settle(world)
        system.walk(world)
        system.relay(world)
        system.sweep(world)
    while world.books.settle(world.store, KEYS):
        pass
    if world.said is not None:
        system.move_hint(world, world.said)
    system.relay(world)
    return world


def violations(world: World) -> Iterator[str]:
    """What is wrong with a world at rest, in words."""
    books = world.books
    if world.wrong:
        yield world.wrong
    charged: dict[str, int] = {}
    for (request, _), claim in books.charged.items():
        charged[request] = charged.get(request, 0) + claim.amount
    for request in ("hold", "charge"):
        facts: Any = world.told.get(request, ())
        yield from _of_request(request, facts, charged.get(request, 0), world)
    for _, amount, said in world.told.get("sql", ()):  # type: ignore[misc]
        if charged.get("sql", 0) != (amount if said else 0):
            yield f"a deduction was answered {said} and booked {charged.get('sql', 0)}"
    late = sum(claim.amount for claim in books.charged.values() if claim.late)
    if not world.lossy and books.used > books.allocated + late + world.unseen:
        yield f"overspent: used {books.used} of {books.allocated}"
    record = world.store.hashes.get(KEYS.accounts, {}).get(ACCOUNT)
    if record is None:
        return
    available, held, applied = map(int, record.split(" "))
    if held or KEYS.holds in world.store.hashes:
        yield f"held {held} although nothing is open"
    if applied < len(books.entries):
        yield f"an entry is lost: {applied} of {len(books.entries)} are in the live balance"
    unapplied = sum(delta for delta, _ in books.entries[applied:])
    if available + held != books.free - unapplied:
        yield f"drift: live {available} + {held}, the books say {books.free} - {unapplied}"


def _of_request(request: str, facts: tuple[Fact, ...], booked: int, world: World) -> Iterator[str]:
    ends = [f for f in facts if f.op in ("commit", "release", "charge") and f.how == "ok"]
    unknown = [f for f in facts if f.how == "unknown"]
    if ends:
        told = ends[-1].charged
        if booked > told:
            yield f"invented: {request} was answered as charged {told}, booked {booked}"
        elif booked < told and not world.lossy:
            yield f"lost: {request} was answered as charged {told}, booked {booked}"
        return
    amounts = {f.amount for f in unknown if f.op in ("commit", "charge")}
    # A heartbeat that comes too late is told how its hold has ended, by which it may be counted.
    reports = [f for f in facts if f.op in ("touch", "expire")]
    touches = [f for f in reports if f.how != "refused" or "Conf" in f.why]
    opened = [f for f in facts if f.op == "reserve" and f.how != "refused"]
    allowed = set(amounts)
    reported = max((f.amount for f in touches if f.how == "ok"), default=0)
    if opened or not amounts:
        # The hold expires: what was reported is charged.
        allowed |= {reported} | {f.amount for f in touches}
        if world.restarted:
            # What was reported under another start of the server is not charged.
            allowed.add(0)
    if any(
        f.op == "release" or f.how == "unknown" for f in unknown if f.op not in ("touch", "void")
    ):
        allowed.add(0)
    if world.lossy:
        if booked > max(allowed):
            yield f"invented: {request} may cost {sorted(allowed)}, booked {booked}"
    elif booked not in allowed:
        refused = [f for f in facts if f.how == "refused" and f.amount == booked]
        if refused and booked:
            yield f"refused though it took effect: {refused[0].why}, booked {booked}"
        else:
            yield f"{request} may cost {sorted(allowed)}, booked {booked}"
