"""A small world: one shard, one account, one gateway with two requests, and everything that can
happen to them. A world can be copied, so that a search goes on from each in every way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from search import gateway, system
from search.gateway import Way
from search.ledger import Books, Said
from search.lua import Scripts
from search.store import Store
from taximeter.meter.lanes.pending import Pending, unknown
from taximeter.meter.server.acknowledged import Acknowledged
from taximeter.meter.server.handshake import Life
from taximeter.meter.wire.errors import MeterError
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.operations import Operation
from taximeter.meter.wire.receipt import Receipt

KEYS = ShardKeys("tm", 0)
ACCOUNT = "org/u"
ALLOCATED = 100
TTL_MS = 1_000
PAST_MAX = 4
"""So many writes can be lost at most."""


class Fact(NamedTuple):
    """What the gateway was told: `how` is ok, refused or unknown."""

    op: str
    amount: int
    how: str
    charged: int = 0
    why: str = ""


@dataclass(frozen=True)
class Rules:
    """What the world is made of: the scripts, how the gateway and the settler decide (see
    `search.planted` for wrong ways), and how often each thing may happen in one life.
    """

    scripts: Scripts = field(default_factory=Scripts)
    gateway: Any = gateway
    system: Any = system
    budgets: Mapping[str, int] = field(
        default_factory=lambda: {
            "lost": 1, "unsent": 0, "oom": 1, "drain": 0, "loss": 2, "restart": 0, "rebuild": 1,
            "rotate": 0, "deduct": 1, "fork": 1, "swap": 1, "credit": 1, "late": 1, "flap": 0,
            "walk": 0, "frozen": 0, "dies": 0,
        }
    )  # fmt: skip
    has_loader: bool = True
    first: tuple[str, ...] = ()
    """Steps by name that are taken before the search begins."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stores", {})
        object.__setattr__(self, "done", {})


class World:
    """One state of everything. Its store is never changed in place."""

    __slots__ = (
        "acknowledged", "asked", "books", "budgets", "calls", "late", "life", "lossy", "met",
        "other", "past", "path", "restarted", "rules", "said", "store", "told", "unseen",
        "walking", "wrong",
    )  # fmt: skip

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.store = Store()
        self.past: tuple[Store, ...] = ()
        self.books = Books(ALLOCATED)
        self.life: Life | None = None
        """Of the server that the gateway is connected to; None when it must greet."""
        self.met: Life | None = None
        """Of the server that it has greeted last."""
        self.acknowledged = Acknowledged(KEYS)
        self.asked: dict[str, int] = {}
        self.calls: dict[str, Pending] = {}
        self.late: Pending | None = None
        """What nobody waits for any more, and is on its way to the server or will be sent again."""
        self.told: dict[str, tuple[Fact, ...]] = {}
        self.budgets = dict(rules.budgets)
        self.lossy = False
        self.restarted = False
        self.unseen = 0
        self.wrong: str | None = None
        self.path: tuple[str, ...] = ()
        self.run("open", KEYS.batch(), [1, 1, f"{1:040x}", f"{1:040x}", 1, 0])
        self.run("load", [KEYS.accounts, KEYS.meta], [1, ACCOUNT, ALLOCATED, 1])
        self.past = ()
        self.other: Store | None = None
        self.said: Said | None = None
        """What a relay was answered that has frozen since."""
        self.walking: system.Walk | None = None

    def copy(self, step: str = "") -> World:
        made = World.__new__(World)
        made.rules, made.store, made.past, made.life, made.met = (
            self.rules, self.store, self.past, self.life, self.met,
        )  # fmt: skip
        made.late = self.late
        made.acknowledged = copy.copy(self.acknowledged)
        made.asked = dict(self.asked)
        made.books = self.books.copy()
        made.calls, made.told, made.budgets = (
            dict(self.calls), dict(self.told), dict(self.budgets),
        )  # fmt: skip
        made.lossy, made.wrong, made.restarted = self.lossy, self.wrong, self.restarted
        made.unseen, made.other = self.unseen, self.other
        made.said, made.walking = self.said, self.walking
        made.path = (*self.path, step) if step else self.path
        return made

    def key(self) -> object:
        """Equal for two worlds that go on alike and are judged alike."""
        calls = tuple(
            (name, pending.operation, *_known(pending))
            for name, pending in sorted(self.calls.items())
        )
        return (
            id(self.store),
            tuple(map(id, self.past)) if self.budgets["loss"] else (),
            id(self.other) if self.other is not None and self.budgets["swap"] else 0,
            self.books.frozen(), self.life, self.met, calls,
            (self.late.operation, *_known(self.late)) if self.late else (), self.said, self.walking,
            tuple(sorted(self.told.items())),
            tuple(self.budgets.values()), self.lossy, self.wrong, self.unseen,
        )  # fmt: skip

    # What processes do with Redis.

    def run(self, name: str, keys: list[str], args: list[Any]) -> Any:
        """One script call. Raises ResponseError."""
        done: dict[object, tuple[Any, Store]] = self.rules.done  # type: ignore[attr-defined]
        call = (id(self.store), name, tuple(map(str, args)))
        found = done.get(call)
        if found is None:
            made = self.store.copy()
            try:
                reply = self.rules.scripts.run(made, name, keys, args)
            except ResponseError as error:
                reply, made = error, self.store
            found = done[call] = reply, self.same(made)
        reply, after = found
        self.become(after)
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def same(self, store: Store) -> Store:
        """The one store that stands for all that behave like this one."""
        stores: dict[object, Store] = self.rules.stores  # type: ignore[attr-defined]
        return stores.setdefault(store.frozen(), store)

    def become(self, store: Store, *, lasting: bool = True) -> None:
        """Go on with another state of the store. `lasting`: the step to it was a write, which may
        be lost.
        """
        if lasting and store is not self.store:
            self.past = (*self.past, self.store)[-PAST_MAX:]
        self.store = store

    def alter(self, name: str, change: Callable[[Store], object]) -> None:
        """Change the store itself, which is no write: `name` says all of what `change` does."""
        done: dict[object, Store] = self.rules.done  # type: ignore[attr-defined]
        after = done.get((id(self.store), name))
        if after is None:
            made = self.store.copy()
            change(made)
            after = done[id(self.store), name] = self.same(made)
        self.become(after, lasting=False)

    def set_oom(self, oom: bool) -> None:
        self.alter(f"oom {oom}", lambda store: setattr(store, "oom", oom))

    def execute(self, arguments: list[str]) -> Any:
        """A command of the gateway."""
        if arguments[0] in ("EVALSHA", "EVAL"):
            name = self.rules.scripts.of_sha(arguments[1])
            count = int(arguments[2])
            return self.run(name, arguments[3 : 3 + count], arguments[3 + count :])
        made = self.store.copy()
        reply = made.call(*arguments)
        self.become(self.same(made))
        return reply

    # What the gateway does.

    def start(self, request: str, op: str, amount: int, way: Way) -> None:
        facts = self.told.get(request, ())
        owner = f"o{len(facts)}" if op == "reserve" else ""
        if op == "void":
            last = max(place for place, fact in enumerate(facts) if fact.op == "reserve")
            owner = f"o{last}"
        ttl_ms = TTL_MS if op in ("reserve", "touch") else 0
        operation = Operation(op, ACCOUNT, f"org/{request}", amount, ttl_ms, owner)  # type: ignore[arg-type]
        self.calls[request] = self.rules.gateway.waiting(operation, life=self.met)
        self.send(request, way)

    def send(self, request: str, way: Way) -> None:
        """The call that is due; afterwards it is answered, or still due."""
        code = self.rules.gateway
        pending = self.calls[request]
        for _ in range(3):
            pending = self._attempt(pending, way)
            if not code.is_not_loaded(pending):
                break
            if not self.rules.has_loader:
                self._wait_for_settler(request, pending)
                return
            system.load(self)
            pending = code.again(pending)
        self.calls[request] = pending
        if pending.future.done():
            self.tell(request, pending, code.read(pending))

    def _attempt(self, pending: Pending, way: Way) -> Pending:
        lacks, before = self._lacks_an_entry(), system.open_credits(self)
        pending, self.life = self.rules.gateway.attempt(
            pending, self.life, KEYS, self.execute, way, self.acknowledged
        )
        self.met = self.life or self.met
        if lacks:
            # What SQL has taken since is not in the live balance yet, and may be promised twice.
            self.unseen += max(0, system.open_credits(self) - before)
        return pending

    def _lacks_an_entry(self) -> bool:
        record = self.store.hashes.get(KEYS.accounts, {}).get(ACCOUNT)
        return record is not None and int(record.split(" ")[2]) < len(self.books.entries)

    def go_on(self, request: str) -> None:
        """Its caller leaves and is told nothing; what was sent is sent again all the same, some
        time, unlike what its own time ends (see `give_up`).
        """
        self.late = self.calls[request]
        self.tell(request, self.late, unknown("its caller has left"))

    def arrive(self) -> None:
        """A late copy: whatever is answered, nobody hears it. What is put back comes again."""
        assert self.late is not None, "it was offered"
        pending = self._attempt(self.late, "ok")
        self.late = None if pending.future.done() else pending

    def _wait_for_settler(self, request: str, pending: Pending) -> None:
        """`AccountReader._wait_for_settler`: it goes on when the account is there, and is told that
        there is none by a note that is later than the question.
        """
        asked_ms = self.asked.setdefault(request, self.store.clock_ms)
        complete_ms = self.store.hashes.get(KEYS.meta, {}).get("complete_ms")
        if complete_ms is not None and int(complete_ms) > asked_ms:
            self.tell(request, pending, self.rules.gateway.not_found(pending))
        else:
            self.calls[request] = self.rules.gateway.again(pending)

    def give_up(self, request: str) -> None:
        """Its time is over."""
        pending = self.calls[request]
        self.tell(request, pending, self.rules.gateway.read(pending))

    def tell(self, request: str, pending: Pending, said: Receipt | MeterError) -> None:
        self.calls.pop(request)
        self.asked.pop(request, None)
        op, amount = pending.operation.op, pending.operation.amount
        if op == "void":
            # Nobody is told; whatever was answered, nothing is held.
            fact = Fact(op, amount, "ok" if pending.future.done() else "unknown")
        elif isinstance(said, Receipt):
            fact = Fact(op, amount, "ok", said.charged)
        else:
            how = "unknown" if self.rules.gateway.is_unknown(said) else "refused"
            fact = Fact(op, amount, how, 0, type(said).__name__)
        if fact.why == "AccountNotFound" and self.books.free > 0:
            self.wrong = "who has credits was told that they have none"
        if op == "reserve" and fact.how == "refused" and self._holds(pending.operation):
            self.wrong = "a reserve was told refused and has left its hold"
        self.told[request] = (*self.told.get(request, ()), fact)

    def _holds(self, operation: Operation) -> bool:
        record = self.store.hashes.get(KEYS.holds, {}).get(operation.key, "")
        return bool(record) and record.split("\t")[3].endswith(operation.owner)

    # What happens to them: every step that is possible now, as a name and the world after it.

    def steps(self) -> Iterator[World]:
        yield from self._gateway_steps()
        yield from self._settler_steps()
        yield from self._trouble()

    def _gateway_steps(self) -> Iterator[World]:
        for request, offers in (("hold", _offers_of_a_hold), ("charge", _offers_of_a_charge)):
            if request in self.calls:
                for way in self._ways():
                    yield self._after(f"{request}: again, {way}", way, "send", request, way)
                yield self._after(f"{request}: given up", "", "give_up", request)
                if self.budgets["late"]:
                    yield self._after(f"{request}: left behind", "late", "go_on", request)
                continue
            for op, amount in self._offers(request, offers):
                for way in self._ways():
                    name = f"{request}: {op} {amount}, {way}"
                    yield self._after(name, way, "start", request, op, amount, way)

        if self.late is not None:
            yield self._after("a late copy arrives", "", "arrive")

    def _offers(
        self, request: str, offers: Callable[[tuple[Fact, ...]], Iterator[tuple[str, int]]]
    ) -> Iterator[tuple[str, int]]:
        facts = self.told.get(request, ())
        if request == "hold" and self.budgets["credit"]:
            kept = [fact for fact in facts if fact.op == "expire"]
            if kept and kept[-1].how == "unknown":
                yield "expire", 40
                return
            if not kept and [fact.how for fact in facts] == ["unknown"]:
                # The credit desk went on with it, and charges what was reported there.
                yield "expire", 40
        yield from offers(facts)

    def _ways(self) -> Iterator[Way]:
        yield "ok"
        if self.budgets["lost"]:
            yield "lost"
        if self.budgets["unsent"]:
            yield "unsent"

    def _settler_steps(self) -> Iterator[World]:
        steps = ("guard", "settle", "relay", "sweep")
        for name in (*steps, "expose") if self.budgets["deduct"] else steps:
            made = self.copy(name)
            getattr(self.rules.system, name)(made)
            yield made
        for name in ("rebuild", "rotate", "deduct", "drain"):
            if self.budgets[name]:
                made = self.copy(name)
                made.budgets[name] -= 1
                getattr(self.rules.system, name)(made)
                yield made
        yield from self._cut_off()

    def _cut_off(self) -> Iterator[World]:
        """What others do in the middle of a piece of the settler's work."""
        code = self.rules.system
        if self.budgets["dies"]:
            yield self._after("the guardian dies", "dies", "do", "guard_dies")
        if self.budgets["frozen"] and self.said is None:
            made = self._after("the relay freezes", "frozen", "do", "send", "said")
            if made.said is not None:
                yield made
        if self.said is not None:
            made = self.copy("the relay wakes")
            code.move_hint(made, made.said)
            made.said = None
            yield made
        if self.budgets["walk"] and self.walking is None:
            made = self._after("a walk begins", "walk", "do", "walk_begins", "walking")
            if made.walking is not None:
                yield made
        if self.walking is not None:
            made = self.copy("the walk ends")
            code.walk_ends(made, made.walking)
            made.walking = None
            yield made

    def do(self, name: str, kept_as: str = "") -> None:
        """A step of the settler; what it returns is kept."""
        answer = getattr(self.rules.system, name)(self)
        if kept_as:
            setattr(self, kept_as, answer)

    def _trouble(self) -> Iterator[World]:
        if self.budgets["oom"] or self.store.oom:
            made = self.copy("memory is free again" if self.store.oom else "out of memory")
            made.budgets["oom"] -= not self.store.oom
            made.set_oom(not self.store.oom)
            yield made
        if self.budgets["restart"]:
            yield self._restarted("restart", "restart", self.store)
        if self.budgets["loss"]:
            for lost, store in enumerate(reversed(self.past), 1):
                yield self._restarted(f"the last {lost} writes are lost", "loss", store)
            made = self.copy("FLUSHALL")
            made.budgets["loss"] -= 1
            made.alter("FLUSHALL", lambda store: store.call("FLUSHALL"))
            made.lossy, made.restarted, made.past = True, True, ()
            yield made

        if self.budgets["flap"]:
            for lost, store in enumerate(reversed(self.past), 1):
                yield self._flapped(lost, store)

        if self.budgets["fork"]:
            made = self.copy("a copy is made")
            made.budgets["fork"] -= 1
            made.other = self.store
            yield made
        if self.budgets["swap"] and self.other is not None:
            # What goes on from the copy, and what has gone on without it: one takes the place of
            # the other.
            made = self._restarted("the other one takes over", "swap", self.other)
            made.other = self.store
            yield made

    def _restarted(self, name: str, budget: str, store: Store) -> World:
        made = self.copy(name)
        made.budgets[budget] -= 1
        made.lossy |= store is not self.store
        made.restarted = True
        clock_ms, run_id = self.store.clock_ms, self.store.run_id + 1

        def restart(store: Store) -> None:
            store.run_id, store.replid, store.clock_ms = run_id, run_id, clock_ms

        made.store = store
        made.alter(f"restart {run_id} {clock_ms}", restart)
        made.life, made.past = None, ()
        return made

    def _flapped(self, lost: int, store: Store) -> World:
        """It was the replica of one that lagged, and is promoted again: one life of its process."""
        made = self.copy(f"a replica without the last {lost} writes took over, and is taken over")
        made.budgets["flap"] -= 1
        made.lossy = made.restarted = True
        replid, clock_ms, run_id = self.store.replid + 1, self.store.clock_ms, self.store.run_id

        def flap(store: Store) -> None:
            store.run_id, store.replid, store.clock_ms = run_id, replid, clock_ms

        made.store = store
        made.alter(f"flap {run_id} {replid} {clock_ms}", flap)
        made.life, made.past = None, ()
        return made

    def _after(self, name: str, way: str, method: str, *arguments: Any) -> World:
        made = self.copy(name)
        if way in self.budgets:
            made.budgets[way] -= 1
        getattr(made, method)(*arguments)
        return made


def _known(pending: Pending) -> tuple[object, ...]:
    """What a pending operation knows, whatever it is made of."""
    names = [name for name in Pending.__slots__ if name not in ("operation", "future", "trouble")]
    return tuple(getattr(pending, name) for name in names)


def _offers_of_a_hold(facts: tuple[Fact, ...]) -> Iterator[tuple[str, int]]:
    """What a sane gateway does next with a request that it holds credits for."""
    if any(fact.op in ("commit", "release") and fact.how == "ok" for fact in facts):
        return
    if any(fact.op == "expire" and fact.how == "ok" for fact in facts):
        in_doubt = any(fact.op == "commit" and fact.how == "unknown" for fact in facts)
        yield "commit", 60
        if not in_doubt:
            yield "commit", 10
        return
    open_end = next(
        (fact for fact in facts if fact.how == "unknown" and fact.op in ("commit", "release")), None
    )
    if open_end is not None:
        yield open_end.op, open_end.amount
        return
    reserves = [fact for fact in facts if fact.op == "reserve"]
    if facts and facts[-1].op == "reserve" and facts[-1].how == "unknown":
        # As the client does of its own accord, sooner or later.
        yield "void", facts[-1].amount
    if len(reserves) < 2 and not any(fact.how == "ok" for fact in reserves):
        yield "reserve", 60
    if any(fact.how in ("ok", "unknown") for fact in reserves):
        if not any(fact.op == "touch" for fact in facts):
            yield "touch", 40
        yield from (("commit", 10), ("commit", 60), ("release", 0))


def _offers_of_a_charge(facts: tuple[Fact, ...]) -> Iterator[tuple[str, int]]:
    if len(facts) < 2 and not any(fact.how == "ok" for fact in facts):
        yield "charge", 50
