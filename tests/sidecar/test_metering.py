"""Settings of every process with a meter, and a sidecar that goes on while Redis is away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis
from support.servers import ValkeyFactory
from support.shard import ScriptedShard
from support.sidecar import calling, served
from support.waiting import eventually

from taximeter.api.processes import sidecar as process
from taximeter.api.settings.metering import MeteringSettings
from taximeter.api.settings.sidecar import SidecarSettings
from taximeter.meter import Meter, StoreUnavailable
from taximeter.meter.sidecar import create_sidecar
from taximeter.meter.wire.keys import ShardKeys


def test_lines_are_credits_by_organisation(tmp_path: Path) -> None:
    settings = MeteringSettings(
        credit_lines="acme=500, globex=20.5,a=0.001", credit_journal=tmp_path / "journal"
    )
    assert settings.credit is not None
    assert settings.credit.limits == {"acme": 500_000, "globex": 20_500, "a": 1}
    assert MeteringSettings().credit is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("acme", "'acme' is not organisation=credits"),
        ("acme=many", "'acme=many' is not organisation=credits"),
        ("acme=0.0005", "the line of acme must be credits with at most 3 decimals"),
        ("acme=nan", "the line of acme must be credits with at most 3 decimals"),
        ("acme=0", "the line of acme must be 1 to 1000000000000 millicredits"),
        ("acme=-1", "the line of acme must be 1 to 1000000000000 millicredits"),
        ("acme=1000000000.001", "the line of acme must be 1 to 1000000000000 millicredits"),
        ("a b=1", "org_id must be"),
    ],
)
def test_bad_lines_are_refused(lines: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=said):
        MeteringSettings(credit_lines=lines, credit_journal=tmp_path / "journal")


def test_lines_need_a_journal() -> None:
    with pytest.raises(ValidationError, match="needs TAXIMETER_CREDIT_JOURNAL"):
        MeteringSettings(credit_lines="acme=1")


@pytest.mark.slow
@pytest.mark.timeouts(take_timeout_s=2.0)
async def test_a_sidecar_goes_on_for_those_with_a_line(
    valkey_server: ValkeyFactory, tmp_path: Path
) -> None:
    server = valkey_server("--appendfsync", "always")
    redis = Redis.from_url(server.url)
    shard = ScriptedShard(redis, ShardKeys("tm", 0))
    await shard.open()
    for account in ("acme/ann", "other/ann"):
        await shard.load(account, 1_000)
    settings = MeteringSettings(
        redis_url=server.url, credit_lines="acme=0.1", credit_journal=tmp_path / "journal"
    )
    async with (
        await Meter.connect(
            server.url, settings=settings.meter_settings(), credit=settings.credit
        ) as meter,
        served(create_sidecar(meter)) as url,
        calling(url) as caller,
    ):
        server.kill()
        fields = {"org_id": "acme", "user_id": "ann", "request_id": "a"}
        held = await caller.ok("reserve", **fields, amount_millicredits=60)
        assert held["state"] == "open"
        committed = await caller.ok("commit", **fields, amount_millicredits=50)
        assert (committed["state"], committed["charged_millicredits"]) == ("committed", 50)
        status, code, _ = await caller.refused(
            "reserve", **{**fields, "org_id": "other"}, amount_millicredits=1
        )
        assert (status, code) == (503, "UNAVAILABLE")
        server.start()
        await redis.hset(shard.keys.meta, "run_id", (await redis.info("server"))["run_id"])

        async def charged() -> bool:
            return len(await shard.events()) == 1

        await eventually(charged)
        assert await shard.account("acme/ann") == (950, 0, 1)
    await redis.aclose()


async def test_a_redis_that_dies_as_soon_as_it_is_reached_leaves_no_journal_in_use(
    redis: Redis, shard: ScriptedShard, redis_url: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A meter that was made and forgotten would keep the journal from every one after it."""

    async def promise(self: Meter) -> str:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(Meter, "promise", promise)
    settings = SidecarSettings(
        redis_url=redis_url, credit_lines="acme=1", credit_journal=tmp_path / "journal"
    )
    sidecar = create_sidecar(None)
    async with asyncio.timeout(60):
        meter = await process._connect(sidecar, settings, None)
    await sidecar.ready()
    await meter.aclose()
