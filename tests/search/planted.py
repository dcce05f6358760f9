"""Bugs of the search: ways in which the scripts, the client or the settler were wrong once, or
could be. The search must find every one of them, or it finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

from search import gateway, system
from search.ledger import Books
from search.lua import Scripts
from search.world import Rules
from taximeter.settler.shards.verdict import has_diverged


@dataclass(frozen=True)
class Bug:
    """`rules` makes a world with the bug in it; a search of `depth` finds a violation that has
    `word` in it.
    """

    rules: Callable[[], Rules]
    depth: int
    word: str


def _script(name: str, before: str, after: str) -> Scripts:
    def change(text: str) -> str:
        assert text.count(before) == 1, f"{name}.lua has {text.count(before)} times {before!r}"
        return text.replace(before, after)

    return Scripts({name: change})


def _with(module: Any, **changed: Any) -> Any:
    return SimpleNamespace(**{**vars(module), **changed})


def _budgets(**changed: int) -> dict[str, int]:
    nothing = dict.fromkeys(Rules().budgets, 0)
    return {**nothing, **changed}


def _forgets_that_it_was_sent() -> Rules:
    """A client that hears a refusal takes it for the fate of its operation, although an earlier
    sending may have taken effect.
    """

    def attempt(pending: Any, *rest: Any) -> Any:
        return gateway.attempt(gateway.waiting(pending.operation), *rest)

    return Rules(
        gateway=_with(gateway, attempt=attempt), budgets=_budgets(lost=1, oom=1, rebuild=1)
    )


def _sql_is_blind() -> Rules:
    """A deduction that sees the books and neither holds nor what is not settled."""

    def deduct(world: Any) -> None:
        books: Books = world.books
        said = books.free >= system.DEDUCTED
        if said:
            books.charged["sql", 0] = system.charged(system.DEDUCTED)
            books.used += system.DEDUCTED
            books.entries.append((-system.DEDUCTED, ""))
        world.told["sql"] = (("deduct", system.DEDUCTED, said),)

    return Rules(system=_with(system, deduct=deduct), budgets=_budgets(deduct=1))


def _rebuild_forgets_holds() -> Rules:
    """A rebuild that drops what holds have reported, although Redis is whole."""

    def carry(world: Any, seen: Any, whole: bool) -> tuple[int, list[Any]]:
        return seen.start, []

    rebuild = partial(system.rebuild, carry=carry)
    return Rules(system=_with(system, rebuild=rebuild), budgets=_budgets(rebuild=1))


def _every_start_is_one() -> Rules:
    """A rebuild after a loss that lets what was reported before it count."""

    def carry(world: Any, seen: Any, whole: bool) -> tuple[int, list[Any]]:
        return system.carry(world, seen, True)

    return Rules(system=_rebuilding(carry=carry), budgets=_budgets(loss=1))


def _rebuilding(**how: Any) -> Any:
    """The settler, with something else in how it rebuilds."""
    rebuild = partial(system.rebuild, **how)

    def guard(world: Any) -> None:
        if system.judge(world.books.mark(), system.look(world), 1).action is system.Action.REBUILD:
            rebuild(world)
        else:
            system.guard(world)

    return _with(system, rebuild=rebuild, guard=guard)


EXPIRED = ("hold: reserve 60, ok", "a copy is made", "hold: touch 40, ok", "sweep")


def _brings_back_what_has_ended() -> Rules:
    """A rebuild that takes a hold over although the ledger has charged its request."""

    def carry(world: Any, seen: Any, whole: bool) -> tuple[int, list[Any]]:
        start, rows = system.carry(world, seen, whole)
        return start, rows[:3]

    first = (*EXPIRED, "settle")
    return Rules(system=_rebuilding(carry=carry), budgets=_budgets(fork=1, swap=1), first=first)


def _forgets_expiries() -> Rules:
    """A rebuild after a loss that brings nothing back of what the ledger knows."""

    def carry(world: Any, seen: Any, whole: bool) -> tuple[int, list[Any]]:
        start, rows = system.carry(world, seen, whole)
        return start, rows if world.store.hashes.get(system.KEYS.holds) else []

    first = ("hold: reserve 60, ok", "hold: touch 40, ok", "sweep", "settle")
    return Rules(system=_rebuilding(carry=carry), budgets=_budgets(loss=1), first=first)


def _settles_whom_it_has_passed_over() -> Rules:
    """A rebuild that takes a server for whole whose numbers fit, although another one was approved
    since.
    """
    first = (*EXPIRED, "the other one takes over", "guard")
    changed = _rebuilding(is_another=has_diverged)
    return Rules(system=changed, budgets=_budgets(fork=1, swap=2), first=first)


LEFT_BEHIND = (
    "hold: reserve 60, ok", "hold: touch 40, lost", "hold: left behind", "hold: release 0, ok",
)  # fmt: skip


def _vouches_for_what_has_ended() -> Rules:
    """A client that sends a heartbeat from before a restart after it."""

    def attempt(pending: Any, *rest: Any) -> Any:
        again = gateway.waiting(pending.operation, in_doubt=pending.uncertain)
        return gateway.attempt(again, *rest)

    budgets = _budgets(lost=1, late=1, loss=1)
    return Rules(gateway=_with(gateway, attempt=attempt), budgets=budgets, first=LEFT_BEHIND)


def _compares_nothing() -> Rules:
    """A walk that loads what is missing, and leaves alone what the relay takes for applied."""

    def walk_begins(world: Any) -> Any:
        hint = world.books.hint
        walking = system.walk_begins(world)
        world.books.hint = hint
        return walking

    def walk(world: Any) -> None:
        walking = walk_begins(world)
        if walking is not None:
            system.walk_ends(world, walking)

    changed = _with(system, walk=walk, walk_begins=walk_begins)
    return Rules(system=changed, budgets=_budgets(deduct=1, loss=1, walk=1))


def _believes_an_answer_from_before() -> Rules:
    """A relay that froze, and wakes when its server was another one's replica in between."""

    def move_hint(world: Any, said: Any) -> None:
        world.books.move_hint(said._replace(starts=world.books.starts))

    budgets = _budgets(deduct=1, flap=1, walk=1, frozen=1)
    first = ("deduct", "the relay freezes")
    return Rules(system=_with(system, move_hint=move_hint), budgets=budgets, first=first)


OVERTAKEN = (
    "hold: reserve 60, ok", "a replica without the last 1 writes took over, and is taken over",
    "guard", "a walk begins", "deduct", "relay",
)  # fmt: skip


def _counts_starts_in_redis() -> Rules:
    """A guardian that gives a start the number after the last one that Redis has not lost."""

    def guard(world: Any) -> None:
        world.books.starts = 0
        system.guard(world)

    budgets = _budgets(deduct=1, flap=2, walk=1)
    return Rules(system=_with(system, guard=guard), budgets=budgets, first=OVERTAKEN)


BUGS: dict[str, Bug] = {
    "a lost reply, then refused": Bug(_forgets_that_it_was_sent, 3, "refused though"),
    "a lost reply, then a reserve refused": Bug(_forgets_that_it_was_sent, 3, "left its hold"),
    "SQL does not see what is live": Bug(_sql_is_blind, 2, "overspent"),
    "a rebuild forgets what holds reported": Bug(_rebuild_forgets_holds, 3, "may cost [40]"),
    "an expiry charges what was reported before a loss": Bug(
        lambda: Rules(
            scripts=_script("sweep", "local is_valid = ", "local is_valid = true or "),
            budgets=_budgets(loss=1),
        ),
        4,
        "invented",
    ),
    "a sweep does not ask whether the server is approved": Bug(
        lambda: Rules(
            scripts=_script("sweep", "if type(info) == 'string' then", "if false then"),
            budgets=_budgets(loss=1),
        ),
        5,
        "invented",
    ),
    "a sweep does not ask whether the server was a replica": Bug(
        lambda: Rules(
            scripts=_script("sweep", " or not is_same then", " then"),
            budgets=_budgets(flap=1),
            first=("hold: reserve 60, ok", "hold: touch 40, ok", "hold: release 0, ok"),
        ),
        2,
        "invented",
    ),
    "a walk compares nothing": Bug(_compares_nothing, 3, "an entry is lost"),
    "an answer from before a start moves a hint": Bug(
        _believes_an_answer_from_before, 5, "an entry is lost"
    ),
    "a lost number of a start is given again": Bug(
        _counts_starts_in_redis, 3, "an entry is lost"
    ),
    "a hold that has ended in the ledger is brought back": Bug(
        _brings_back_what_has_ended, 3, "answered as charged 10, booked 40"
    ),
    "a rebuild after a loss forgets what has expired": Bug(
        _forgets_expiries, 3, "answered as charged 10, booked 40"
    ),
    "an expiry of a server that was passed over is charged": Bug(
        _settles_whom_it_has_passed_over, 3, "answered as charged 10, booked 40"
    ),
    "a heartbeat from before a restart is sent after it": Bug(
        _vouches_for_what_has_ended, 4, "answered as charged 0, booked 40"
    ),
    "a start after a loss is no other start": Bug(_every_start_is_one, 6, "invented"),
    "a commit keeps what it did not need": Bug(
        lambda: Rules(
            scripts=_script("operate", "available + reserved - amount, held - reserved\n",
                            "available - amount, held - reserved\n"),
            budgets=_budgets(),
        ),
        2,
        "drift",
    ),
    "a sweep leaves no outcome": Bug(
        lambda: Rules(
            scripts=_script("sweep", "call('HSET', KEYS[4], unpack(outcomes))", ""),
            budgets=_budgets(),
        ),
        4,
        "answered as charged",
    ),
    "an entry is applied again": Bug(
        lambda: Rules(
            scripts=_script("apply", "elseif applied >= number then", "elseif false then"),
            system=_with(system, relay=system.relay_all),
            budgets=_budgets(),
        ),
        1,
        "drift",
    ),
}  # fmt: skip
