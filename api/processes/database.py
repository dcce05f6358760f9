"""Makes the Postgres pools of a process that callers wait for, as its settings say."""

from __future__ import annotations

from collections.abc import Mapping

from taximeter.api.settings.metering import MeteringSettings
from taximeter.settler.books.connection_pools import BoundedPool, make_pool


def process_pool(
    settings: MeteringSettings,
    name: str,
    *,
    size_max: int | None = None,
    close_s: float | None = None,
    server_settings: Mapping[str, str] | None = None,
) -> BoundedPool:
    """A pool that is opened by `async with`, also while Postgres is away; `name` is what Postgres
    shows its sessions as. `size_max` is that of the settings unless it is given.
    """
    return make_pool(
        settings.database_url,
        size_max=settings.database_pool_max if size_max is None else size_max,
        command_timeout_s=settings.database_timeout_s,
        wait_s=settings.database_wait_s,
        accept_loss=settings.database_durability == "none",
        close_s=close_s,
        server_settings={"application_name": name, **(server_settings or {})},
    )
