"""A sidecar on what may be a copy of another installation ends holds, and opens none."""

from __future__ import annotations

import httpx
from sidecar.test_process import ready, running
from support.books import Books
from support.shard import ScriptedShard
from support.sidecar import FUNDS, problem
from support.waiting import eventually


async def test_a_sidecar_of_another_name_takes_nothing(
    redis_url: str, shard: ScriptedShard, pool: object, sidecar_database_url: str
) -> None:
    books = Books(pool)  # type: ignore[arg-type]  # A pool, as the fixture says.
    settings = {
        "redis_url": redis_url,
        "database_url": sidecar_database_url,
        "installation": "staging",
    }
    async with running("--port", "0", **settings) as (_, url), ready(url) as caller:
        await caller.ok("reserve", request_id="r1", amount_millicredits=100)
        await books.run("UPDATE taximeter.installation SET name = 'production'")

        async def answer() -> httpx.Response:
            return await caller.client.get("/readyz")

        async def has_stopped() -> bool:
            return (await answer()).status_code == 503

        await eventually(has_stopped, what="a sidecar that takes nothing")
        assert problem(await answer())[1] == "ANOTHER_INSTALLATION"
        refused = (503, "ANOTHER_INSTALLATION", {})
        for op in ("reserve", "charge"):
            assert problem(await caller.post(op, request_id="r2", amount_millicredits=1)) == refused
        one = {"op": "charge", "org_id": "acme", "user_id": "ann", "amount_millicredits": 1}
        batch = await caller.client.post("/v1/batch", json={"operations": [one]})
        assert batch.json()["results"][0]["error"]["code"] == "ANOTHER_INSTALLATION"
        gate = await caller.client.get(
            "/auth/charge/0.5", headers={"X-Org-Id": "acme", "X-User-Id": "ann"}
        )
        assert problem(gate)[:2] == refused[:2]
        # What was begun before is paid, and reads are answered.
        await caller.ok("commit", request_id="r1", amount_millicredits=40)
        balance = await caller.client.get("/v1/balance?org_id=acme&user_id=ann")
        assert balance.json()["available_millicredits"] == FUNDS - 40
        await books.run("UPDATE taximeter.installation SET name = 'staging'")

        async def goes_on() -> bool:
            return (await answer()).status_code == 200

        await eventually(goes_on, what="a sidecar that takes credits again")
        await caller.ok("charge", request_id="r3", amount_millicredits=5)
    assert (await shard.account("acme/ann"))[:2] == (FUNDS - 45, 0)
