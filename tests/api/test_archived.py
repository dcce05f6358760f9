"""The API answers about archived months as about all others, or says which file is away."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from archived_months import remove
from support.world import BILLING, World

from taximeter.settler.archive.months import archive_month
from taximeter.settler.archive.places import Place, open_place

PATH = f"{BILLING}/credits/acme/requests"
RANGE = "start_date=2025-01-01&end_date=2025-01-31"
AT = datetime(2025, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return open_place(str(tmp_path / "archive"))


@pytest.fixture
def api_options(place: Place) -> dict[str, Any]:
    return {"archive_url": place.url}


async def charged_long_ago(world: World, place: Place) -> None:
    """A request of ann's in January 2025, whose month is archived now."""
    await world.funded()
    pool = world.stores.pool
    await pool.execute("SELECT taximeter.make_attribution_month('2025-01-01')")
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL taximeter.settling = 'on'")
        await conn.execute(
            "INSERT INTO taximeter.charged_requests"
            " (org_id, request_id, user_id, shard, epoch, seq, amount, created_at)"
            " VALUES ('acme', 'old', 'ann', 0, 1, 1, 1500, $1)",
            AT,
        )
        await conn.execute(
            "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, service_name,"
            " credits_used, request_id, created_at, shard, epoch, seq, request_metadata)"
            " VALUES ('acme', 'ann', 'llm_inference', 'gpt-4o', 1500, 'old', $1, 0, 1, 1,"
            " '{\"tokens_used\": 7}')",
            AT,
        )


async def archive(world: World, place: Place) -> None:
    async with world.stores.pool.acquire() as owner:
        await archive_month(owner, place, date(2025, 1, 1))


async def test_lists_exports_and_single_requests_read_the_archive(
    world: World, place: Place
) -> None:
    await charged_long_ago(world, place)
    boss, ann = world.auth("boss"), world.auth("ann")
    paths = {
        f"{PATH}?{RANGE}": boss,
        f"{PATH}.csv?{RANGE}": boss,
        "/v1/requests/old": ann,
        f"{BILLING}/credits/acme/usage?{RANGE}": boss,
    }

    async def answers() -> list[str]:
        found = []
        for path, headers in paths.items():
            answer = await world.client.get(path, headers=headers)
            assert answer.status_code == 200, answer.text
            body = answer.json() if "csv" not in path else {"csv": answer.text}
            body.pop("as_of", None)
            found.append(body)
        return found

    before = await answers()
    assert before[0]["requests"][0]["credits_used"] == 1.5  # type: ignore[index]
    assert before[2]["usage"] == {"tokens_used": 7}  # type: ignore[index]
    await archive(world, place)
    assert await answers() == before
    # Others' stay others'.
    hidden = await world.client.get(f"{PATH}?{RANGE}&user_id=ann", headers=world.auth("boss"))
    assert len(hidden.json()["requests"]) == 1
    assert (await world.client.get("/v1/requests/old", headers=boss)).status_code == 404

    (file,) = [name for name in place.names("2025-01") if name.endswith(".parquet")]
    remove(place, file)
    # A process that has read it before has it in memory; another one has not.
    world.app.state.services.charges._archive._last = None
    for path in (f"{PATH}?{RANGE}", f"{PATH}.csv?{RANGE}"):
        answer = await world.client.get(path, headers=boss)
        assert answer.status_code == 503
        assert answer.json()["error"]["details"]["reason"] == "archive_away"
        assert f"{file} is missing" in answer.json()["error"]["message"]
    one = (await world.client.get("/v1/requests/old", headers=ann)).json()
    assert (one["cost_incurred"], one["settlement"]) == (1.5, "settled")
    assert (one["model"], one["usage"], one["archived"]) == (None, {}, "2025-01")
