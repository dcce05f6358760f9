"""Opens what sends notices in one settler, on connections of its own, and closes it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from taximeter.settler.books.connection_pools import make_pool
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.timelines import Timelines
from taximeter.settler.notices.deliver import Counted, Deliverer
from taximeter.settler.notices.mail import Mailer
from taximeter.settler.notices.sealing import Sealer
from taximeter.settler.notices.sending import HttpSender

_CONNECTIONS: Final = 3
"""Of Postgres: what is sent holds none while it waits for a receiver."""


@asynccontextmanager
async def delivering(
    settings: SettlerSettings,
    timelines: Timelines,
    counted: Counted,
    is_guarded: Callable[[], bool],
) -> AsyncIterator[Deliverer | None]:
    """What sends notices, until the block ends; None without keys: then nothing is sent."""
    if settings.notice_keys is None:
        yield None
        return
    sealer = Sealer(settings.notice_keys.get_secret_value())
    pool = make_pool(
        settings.database_url,
        size_max=_CONNECTIONS,
        command_timeout_s=settings.database_timeout_s,
        wait_s=settings.database_timeout_s,
        accept_loss=settings.database_durability == "none",
        timelines=timelines,
        server_settings={"application_name": "taximeter-settler-notices"},
    )
    async with pool, HttpSender(anywhere=settings.notices_anywhere) as sender:
        mailer = None
        if settings.smtp_url is not None:
            mailer = Mailer(settings.smtp_url.get_secret_value(), settings.smtp_from)
        deliverer = Deliverer(pool, sealer, sender, counted, mailer, is_guarded)
        try:
            yield deliverer
        finally:
            await deliverer.aclose(settings.shutdown_grace_s)
