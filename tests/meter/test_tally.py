"""What a meter counts is what its callers were told, each operation once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from support.listening import listening
from support.shard import ScriptedShard
from support.sidecar import FUNDS, Caller, calling

from taximeter.api.processes.sidecar import add_sidecar_families
from taximeter.api.processes.sidecar_server import server_config
from taximeter.api.web.outermost import Outermost
from taximeter.meter import InsufficientCredits, Meter, RequestReplayed
from taximeter.meter.lanes.pending import Pending
from taximeter.meter.lanes.tally import Tally
from taximeter.meter.pricing import Pricer
from taximeter.meter.sidecar import create_sidecar
from taximeter.meter.wire.codes import Code
from taximeter.meter.wire.operations import Operation
from taximeter.settler.status.metrics import Exposition


async def test_holds_charges_and_refusals_are_counted(meter: Meter) -> None:
    hold = await meter.reserve("org", "u", 100, request_id="r1")
    with pytest.raises(RequestReplayed):
        await meter.reserve("org", "u", 100, request_id="r1")
    with pytest.raises(InsufficientCredits):
        await meter.reserve("org", "u", 10_000)
    await hold.commit(40)
    await meter.charge("org", "u", 7)
    await (await meter.reserve("org", "u", 5)).release()
    await meter.commit("org", "u", "never-held", 3)
    figures = meter.tally.by_operation
    reserve, commit = figures["reserve"], figures["commit"]
    assert (reserve.done, reserve.amount) == (2, 105)
    assert reserve.others == {Code.REPLAYED: 1, Code.INSUFFICIENT: 1}
    assert (commit.done, commit.amount, commit.others) == (1, 43, {Code.LATE: 1})
    assert (figures["charge"].done, figures["charge"].amount) == (1, 7)
    assert figures["release"].done == 1
    for operation, answers in (("reserve", 4), ("commit", 2), ("charge", 1)):
        assert sum(figures[operation].buckets) == answers
        assert figures[operation].seconds > 0


def pending(operation: Operation, *, queued_at: float, uncertain: bool = False) -> Pending:
    future: Any = SimpleNamespace()
    return Pending(operation, queued_at, 100.0, future, uncertain=uncertain)


@pytest.mark.parametrize(
    ("uncertain", "reply", "done", "amount", "others"),
    [
        (False, b"1 10 0", 1, 40, {}),
        (True, b"2 10 0 committed 50 40", 1, 40, {}),
        (False, b"2 10 0 committed 50 40", 0, 0, {Code.REPLAYED: 1}),
        (False, b"3 10 0 25", 0, 25, {Code.LATE: 1}),
        (False, b"-4 10 0 released 50 0", 0, 0, {Code.CONFLICT: 1}),
        (False, b"-7 backlog", 0, 0, {Code.PAUSED: 1}),
        (False, b"nonsense", 0, 0, {}),
    ],
)
def test_a_reply_that_was_lost_is_no_second_charge(
    uncertain: bool, reply: bytes, done: int, amount: int, others: dict[Code, int]
) -> None:
    tally = Tally()
    asked = pending(Operation("commit", "a/u", "a/r", 40), queued_at=1.0, uncertain=uncertain)
    tally.note([asked], [reply], 1.03)
    figures = tally.by_operation["commit"]
    assert (figures.done, figures.amount, figures.others) == (done, amount, others)
    assert figures.buckets[6] == 1  # Within 0.05 s.


def series(exposition: Exposition) -> set[tuple[str, str]]:
    return {
        (sample.name, str(sorted(sample.labels.items())))
        for family in exposition.registry.collect()
        for sample in family.samples
    }


async def make_up(caller: Caller, number: int) -> None:
    """Names of callers in everything that they may choose."""
    word = f"made-up-{number}"
    headers = {"X-Org-Id": word, "X-User-Id": word, "X-Taximeter-Service": word}
    await caller.client.get(f"/auth/charge/{number}", headers=headers)
    await caller.client.get(f"/v1/{word}?{word}={word}")
    await caller.client.request(f"M{number}", f"/{word}")
    one = {"op": "charge", "org_id": word, "user_id": word, "request_id": word}
    await caller.batch({**one, "model": word}, {**one, "op": word})


async def test_refusals_of_a_sidecar_are_counted_by_surface(
    meter: Meter, shard: ScriptedShard
) -> None:
    """Those inside of batches too; and no words of callers make series."""
    await shard.load("acme/ann", FUNDS)
    sidecar = create_sidecar(meter)
    outermost = Outermost(
        sidecar, surface_of=lambda path: "gate" if path.startswith("/auth/") else "sidecar"
    )
    config = server_config(outermost)
    config.log_config = None
    async with listening(uvicorn.Server(config)) as url, calling(url) as caller:
        much = {"op": "charge", "amount_millicredits": FUNDS + 1}
        little = {"op": "charge", "amount_millicredits": 1}
        await caller.batch(much, little, much)
        assert (await caller.refused("charge", amount_millicredits=FUNDS + 1))[0] == 402
        assert (await caller.refused("charge", amount_millicredits=-1))[0] == 400
        headers = {"X-Org-Id": "acme", "X-User-Id": "ann"}
        gate = await caller.client.get("/auth/charge/9999?refuse_with=403", headers=headers)
        assert gate.status_code == 403
        assert outermost.refusals == {
            ("sidecar", "insufficient_credits"): 1,
            ("sidecar", "invalid_field"): 1,
            ("gate", "insufficient_credits"): 1,
        }
        exposition = Exposition("sidecar", None)
        add_sidecar_families(exposition, outermost, sidecar, Pricer())
        await make_up(caller, 0)
        few = series(exposition)
        for number in range(1, 20):
            await make_up(caller, number)
        many = series(exposition)
    assert many == few
    assert sidecar.refused_in_batches["insufficient_credits"] == 2
