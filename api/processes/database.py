"""Makes the Postgres pools of a process that callers wait for, as its settings say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from taximeter.api.settings.metering import MeteringSettings
from taximeter.settler.books.connection_pools import BoundedPool, make_pool
from taximeter.settler.books.directory import TIMEOUT_S, Directory
from taximeter.settler.books.timelines import Timelines

_DIRECTORY_CONNECTIONS = 2


def process_pool(
    settings: MeteringSettings,
    name: str,
    *,
    size_max: int | None = None,
    close_s: float | None = None,
    server_settings: Mapping[str, str] | None = None,
    timelines: Timelines | None = None,
) -> BoundedPool:
    """A pool that is opened by `async with`, also while Postgres is away; `name` is what Postgres
    shows its sessions as. `size_max` is that of the settings unless it is given; pools of one
    process share their `timelines`.
    """
    return make_pool(
        settings.database_url,
        size_max=settings.database_pool_max if size_max is None else size_max,
        command_timeout_s=settings.database_timeout_s,
        wait_s=settings.database_wait_s,
        accept_loss=settings.database_durability == "none",
        close_s=close_s,
        timelines=timelines,
        server_settings={"application_name": name, **(server_settings or {})},
    )


@asynccontextmanager
async def open_directory(
    settings: MeteringSettings, name: str, *, close_s: float | None = None
) -> AsyncIterator[Directory | None]:
    """The directory of cells, also while it is away; None where there is only this system."""
    if settings.cell is None or settings.directory_url is None:
        yield None
        return
    pool = make_pool(
        settings.directory_url,
        size_max=_DIRECTORY_CONNECTIONS,
        command_timeout_s=TIMEOUT_S,
        wait_s=TIMEOUT_S,
        accept_loss=settings.database_durability == "none",
        close_s=close_s,
        server_settings={"application_name": name},
    )
    async with pool:
        yield Directory(pool, settings.cell)
