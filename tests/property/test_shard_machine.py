"""Every operation, crash and restart, in every order Hypothesis can think of: scripts = model.

What is stored is compared with the model after each step, on a real server that is killed and
started again in between.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from property.model import Model
from property.running import MACHINE_S, run_machine
from redis.asyncio import Redis
from support.shard import ScriptedShard, op, text

from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import load_script

ACCOUNTS = ["org/a", "org/b", "two/a"]
accounts = st.sampled_from(ACCOUNTS)
requests = st.sampled_from(["r1", "r2", "r3", "r4"])
amounts = st.sampled_from([0, 1, 7, 40, 99, 100, 150])
owners = st.sampled_from(["", "x", "y"])
kinds = st.sampled_from(
    ["reserve", "reserve", "commit", "commit", "charge", "release", "touch", "void", "expire"]
)


class ShardMachine(RuleBasedStateMachine):
    """Drives one shard and the model side by side."""

    server: EmbeddedValkey
    loop: asyncio.AbstractEventLoop

    @initialize()
    def start(self) -> None:
        self.model = Model()
        self.connect()
        self.run(self.redis.flushall())
        self.run(self.shard.open())

    def connect(self) -> None:
        self.redis = Redis.from_url(self.server.url)
        self.shard = ScriptedShard(self.redis, ShardKeys("tm", 0))

    def run(self, awaitable):  # type: ignore[no-untyped-def]
        return self.loop.run_until_complete(awaitable)

    @rule(account=accounts, available=st.sampled_from([0, 100, 300]))
    def load(self, account: str, available: int) -> None:
        expected = self.model.load(account, available, 1)
        assert self.run(self.shard.load(account, available, 1)) == expected

    @rule(
        operations=st.lists(
            st.tuples(kinds, accounts, requests, amounts, owners), max_size=6, min_size=1
        )
    )
    def operate(self, operations: list[tuple[str, str, str, int, str]]) -> None:
        expected = []
        arguments = []
        before = len(self.model.events)
        for kind, account, request, amount, owner in operations:
            key = f"{account.partition('/')[0]}/{request}"
            expected.append(self.model.operate(kind, account, key, amount, owner))
            arguments.append(op(kind, request, amount, user=account, owner=owner))
        note(f"{operations} -> {expected}")
        assert self.run(self.shard.batch(*arguments)) == expected
        written = len(self.model.events) - before
        assert written <= len(operations)

    @rule(account=accounts, request=requests, amount=amounts)
    def come_again_at_once(self, account: str, request: str, amount: int) -> None:
        """What was voided is reserved anew in the same call."""
        self.operate(
            [
                ("reserve", account, request, amount, "x"),
                ("void", account, request, amount, "x"),
                ("reserve", account, request, amount, "y"),
            ]
        )

    @rule(data=st.data())
    @precondition(lambda self: any(r.state == "open" for r in self.model.requests.values()))
    def expire(self, data: st.DataObject) -> None:
        open_keys = sorted(k for k, r in self.model.requests.items() if r.state == "open")
        key = data.draw(st.sampled_from(open_keys))
        org, _, request = key.partition("/")
        self.run(self.shard.overdue(request, org))
        before = len(self.model.events), self.model.uncharged
        self.model.expire(key)
        uncharged = self.model.uncharged - before[1]
        assert self.run(self.shard.sweep_fully()) == [
            1, len(self.model.events) - before[0], 0, int(uncharged > 0), uncharged
        ]  # fmt: skip

    @rule(
        account=accounts,
        step=st.sampled_from([-1, 0, 1, 1, 1, 2]),
        delta=st.sampled_from([-120, -1, 50]),
        hold=st.sampled_from(["", "org/r1", "org/r2", "two/r3"]),
    )
    def apply(self, account: str, step: int, delta: int, hold: str) -> None:
        known = self.model.accounts.get(account)
        number = max(1, (known.applied if known else 1) + step)
        expected = self.model.apply(account, number, delta, hold)
        assert self.run(self.shard.apply((account, number, delta, hold))) == [expected]

    @rule()
    def rotate(self) -> None:
        self.run(self.redis.hset(self.shard.keys.meta, "rotated_ms", 0))
        assert self.run(self.shard.rotate()) == 1
        self.model.rotate()

    @rule()
    def forget_scripts(self) -> None:
        self.run(self.redis.script_flush())

    @rule()
    def kill_and_restart(self) -> None:
        """With appendfsync always, kill -9 loses nothing that was answered."""
        epoch = self.shard.epoch
        self.run(self.redis.aclose())
        self.server.kill()
        self.server.start()
        self.connect()
        self.shard.epoch = epoch
        run_id = self.run(self.redis.info("server"))["run_id"]
        self.run(load_script("approve").call(self.redis, [self.shard.keys.meta], [epoch, run_id]))
        self.model.start += 1

    @rule(whole=st.booleans())
    def rebuild(self, whole: bool) -> None:
        """The shard is fenced and opened at the next epoch; balances come back from the books, and
        open holds stay.
        """
        self.run(load_script("fence").call(self.redis, [self.shard.keys.meta], ["rebuild"]))
        left = self.model.reopen(whole)
        kept = {name: left[name] for name in self.model.accounts}
        self.run(
            self.shard.open(
                epoch=self.model.epoch, start=self.model.start, whole=whole, accounts=kept
            )
        )
        for account, (available, applied) in left.items():
            expected = self.model.load(account, available, applied)
            assert self.run(self.shard.load(account, available, applied)) == expected

    @invariant()
    def stored_state_is_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        state = self.run(self.shard.state())
        stored = {text(name): text(record) for name, record in state["accounts"].items()}
        model = self.model
        assert stored == {
            name: f"{mine.available} {mine.held} {mine.applied}"
            for name, mine in model.accounts.items()
        }
        holds = {key: r for key, r in model.requests.items() if r.state == "open"}
        assert {text(key): text(record) for key, record in state["holds"].items()} == {
            key: f"{r.reserved}\t{r.account}\t{r.progress}\t{r.start}S{r.owner}\t"
            for key, r in holds.items()
        }
        assert {text(key) for key, _ in state["deadlines"]} == set(holds)
        outcomes = {**state["outcomes_old"], **state["outcomes"]}
        # What is void stays written down while its id is used anew.
        assert {
            text(key): text(record) for key, record in outcomes.items() if text(key) not in holds
        } == {
            key: f"{r.state} {r.reserved} {r.charged} {r.account}"
            + (f"\t{r.voided or r.owner}" if r.voided or r.owner else "")
            for key, r in model.requests.items()
            if r.state != "open"
        }
        assert state["meta"][b"seq"] == str(model.seq).encode()
        assert state["meta"][b"epoch"] == str(model.epoch).encode()

    @invariant()
    def held_is_the_sum_of_open_holds(self) -> None:
        if not hasattr(self, "model"):
            return
        for name, mine in self.model.accounts.items():
            open_holds = [
                r.reserved
                for r in self.model.requests.values()
                if r.state == "open" and r.account == name
            ]
            assert mine.held == sum(open_holds)

    @invariant()
    def events_are_complete_and_in_order(self) -> None:
        if not hasattr(self, "model"):
            return
        events = self.run(self.shard.events())
        assert [
            (kind, account, key, int(amount), int(reserved), flags)
            for _, kind, account, key, amount, reserved, flags, _ in events
        ] == self.model.events

    def teardown(self) -> None:
        if hasattr(self, "redis"):
            self.run(self.redis.aclose())


@pytest.mark.slow
@pytest.mark.hypothesis
@pytest.mark.timeout(MACHINE_S)
def test_scripts_and_model_agree(tmp_path: Path) -> None:
    run_machine(ShardMachine, tmp_path, examples=25, steps=40)
