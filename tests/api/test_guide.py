"""The guide's own API tests, with today's way to hand httpx an application, and its end-to-end
script as it stands.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient
from support.world import World

from taximeter.api.access.dev_tokens import load_dev_key
from taximeter.api.app import create_app
from taximeter.api.embedded.postgres import postgres_program
from taximeter.api.settings.api import ApiSettings
from taximeter.settler.proof.check import check


async def test_create_subscription_and_allocate_credits(database_url: str, tmp_path: Path) -> None:
    """Needs Postgres alone: an organisation can be set up while the live side is away."""
    app = create_app(
        ApiSettings(
            database_url=database_url,
            redis_url="redis://127.0.0.1:1/0",
            dev_mode=True,
            data_dir=tmp_path,
        )
    )
    token = load_dev_key(tmp_path).mint("operator", ttl_s=60, roles=("system_admin",))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app=app), base_url="http://test") as client,
    ):
        response = await client.post(
            "/api/v1/org-billing/subscriptions",
            json={
                "org_id": "test-api-org",
                "plan_code": "professional",
                "org_name": "Test API Org",
                "billing_email": "test@example.com",
                "initial_credits": 5000.0,
                "user_id": "test-user-api",
            },
            headers={"Cookie": f"session_token={token}"},
        )

        assert response.status_code == 200
        data = response.json()
        assert data["subscription"]["org_id"] == "test-api-org"
        assert data["credit_pool"]["total_credits"] == 5000.0

        response = await client.post(
            "/api/v1/org-billing/credits/test-api-org/allocate",
            json={"user_id": "test-user-api", "credits": 2000.0},
            headers={"Cookie": f"session_token={token}"},
        )

        assert response.status_code == 200
        data = response.json()
        assert data["allocation"]["allocated_credits"] == 2000.0
        assert data["pool_updated"]["available_credits"] == 3000.0


SCRIPT = Path(__file__).parents[1] / "guide" / "e2e_org_billing.sh"
GUIDES_HOST = "http://localhost:8084"
GUIDES_USER = "e2e-user-123"

# Stands in for the container that the script runs psql in: the database connection is ours. The
# count is asked for again while it is 0, since a charge reaches Postgres a moment after its answer;
# what was printed is kept for the test, because the script greps for a "1" that "(1 row)" has too.
PSQL_IN_A_CONTAINER = """#!/bin/bash
[ "$1 $2 $3" = "exec uchub-postgres psql" ] || exit 64
query="${!#}"
for attempt in $(seq 200); do
    printed=$("$PSQL" --no-psqlrc --set=ON_ERROR_STOP=1 "$DATABASE" -c "$query") || exit 1
    [[ "$query" = *COUNT* && "$printed" =~ [^0-9]0[^0-9] ]] || break
    sleep 0.05
done
printf '%s\n' "$printed" | tee -a "$PRINTED"
"""


async def run_script(world: World, database_url: str, folder: Path) -> tuple[str, str]:
    """The script's output and what psql has printed, with usage settled all the while."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (folder / "printed").unlink(missing_ok=True)
    (programs / "docker").write_text(PSQL_IN_A_CONTAINER)
    (programs / "docker").chmod(0o755)
    text = SCRIPT.read_text(encoding="utf-8")
    assert text.count(GUIDES_HOST) == 4
    script = folder / "e2e.sh"
    script.write_text(text.replace(GUIDES_HOST, world.url), encoding="utf-8")
    running = await asyncio.create_subprocess_exec(
        "bash",
        str(script),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "NO_PROXY": "*",
            "SESSION_TOKEN": world.token(GUIDES_USER, system_admin=True),
            "PSQL": str(postgres_program("psql")),
            "DATABASE": database_url,
            "PRINTED": str(folder / "printed"),
        },
    )
    reading = asyncio.create_task(running.communicate())
    async with asyncio.timeout(60):
        while not reading.done():
            await world.settle()
            await asyncio.wait((reading,), timeout=0.05)
    output, _ = reading.result()
    assert running.returncode == 0, output.decode()
    return output.decode(), (folder / "printed").read_text()


RUNS = int(os.environ.get("GUIDE_RUNS", "1"))


@pytest.mark.timeout(60 + 30 * RUNS)
async def test_the_end_to_end_script_as_written(
    world: World, database_url: str, tmp_path: Path
) -> None:
    """Nothing is changed but the host, the database connection and the token. GUIDE_RUNS=50 runs it
    as often, one after the other on the same database, as somebody does who tries it again.
    """
    for program in ("bash", "curl", "jq"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: the guide's script runs it; install its package")
    for _ in range(RUNS):
        await a_run(world, database_url, tmp_path)
    await world.settle()
    report = await check(world.settling)
    # The clean-up deletes a charge each time: that is on record, and no alarm.
    assert report.holds, [one.violations for one in report.invariants if not one.holds]
    figures = next(one.figures for one in report.invariants if one.name == "I4")
    assert figures["deleted_by_hand"] == RUNS


async def a_run(world: World, database_url: str, folder: Path) -> None:
    """The script once, with its own figures: 5000 credits, one charge, nothing left behind."""
    output, printed = await run_script(world, database_url, folder)
    for line in (
        "✅ Subscription created: e2e-test-org",
        "✅ Allocated: 5000 credits",
        "✅ Usage attributed correctly",
        "✅ Cleanup complete",
        "🎉 All E2E tests passed!",
    ):
        assert line in output, output
    assert re.search(r"^ *count *\n-+\n *1\n\(1 row\)$", printed, re.MULTILINE), printed
    used = re.search(r"Total credits used: ([0-9.]+)", output)
    assert used is not None, output
    assert float(used.group(1)) > 0
    for table in ("organizations", "user_credit_allocations", "credit_usage_attribution"):
        left = await world.stores.pool.fetchval(f"SELECT count(*) FROM {table}")
        assert left == 0, (table, output)
