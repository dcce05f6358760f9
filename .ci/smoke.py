"""One metered request on empty servers, from the hold to proved books, with what is installed
beside this interpreter. Run by .ci/pythons, in an empty folder; warnings are errors.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

import taximeter
from taximeter.api.app import create_app
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.api.processes.migrate import migrate
from taximeter.api.settings.api import ApiSettings
from taximeter.meter import Meter, Usage
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import open_stores
from taximeter.settler.proof.check import check
from taximeter.settler.settling.settle import settle_shard
from taximeter.settler.shards.guardian import ensure_shards, guard

CREDITS = """
INSERT INTO organizations (id, org_name, slug, created_by) VALUES ('acme', 'acme', 'acme', 'smoke');
SELECT add_credits_to_pool('acme', 1000000, 1.00);
SELECT allocate_credits_to_user('acme', 'ann', 500000, 'smoke');
"""


async def meter(database_url: str, redis_url: str) -> None:
    settings = SettlerSettings(database_url=database_url, redis_url=redis_url)
    async with open_stores(settings) as stores:
        shards = await ensure_shards(stores, None)
        for shard in range(shards):
            assert (await guard(stores, shard, shards)).usable
        await stores.pool.execute(CREDITS)
        loader = account_loader(stores.pool)
        async with await Meter.connect(redis_url, loader=loader) as meter:
            usage = Usage("llm_inference", "gpt-4o-mini")
            async with await meter.reserve("acme", "ann", 300, usage=usage) as hold:
                hold.spent(120, usage)
            await meter.charge("acme", "ann", 5)
        for shard in range(shards):
            while (await settle_shard(stores, shard)).state != "idle":
                pass
        booked = await stores.pool.fetchval(
            "SELECT sum(credits_used) FROM credit_usage_attribution"
        )
        assert booked == 125, booked
        report = await check(stores)
        assert report.proved, report.as_dict()


def main() -> None:
    for module in pkgutil.walk_packages(taximeter.__path__, "taximeter."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert len(create_app(ApiSettings(dev_mode=True)).openapi()["paths"]) > 50
    folder = Path.cwd()
    postgres, valkey = EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey")
    try:
        postgres.start()
        migrate(postgres.url)
        valkey.start()
        asyncio.run(meter(postgres.url, valkey.url))
    finally:
        valkey.stop()
        postgres.stop()
    print(f"one metered request, proved, on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
