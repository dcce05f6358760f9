"""Opens what a running sidecar is made of, in order: stores, meter, prices, server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from taximeter.api.access.api_keys import KEY_CONNECTIONS, KeyStore
from taximeter.api.prices.editions import Editions
from taximeter.api.prices.followed import PriceAge, following, make_holds
from taximeter.api.processes.database import process_pool
from taximeter.api.processes.sidecar_keys import Keys
from taximeter.api.processes.sidecar_server import DrainingServer, open_unix_socket, server_config
from taximeter.api.settings.sidecar import SidecarSettings
from taximeter.api.web.background import REQUESTS_SHARE
from taximeter.api.web.outermost import Outermost
from taximeter.meter import Loader, Meter, MeterError, StoreUnavailable
from taximeter.meter.pricing import Pricer
from taximeter.meter.sidecar import Sidecar, create_sidecar
from taximeter.meter.sidecar.answers import Refusal
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.stores import Pool, Stores
from taximeter.settler.status.health import HealthCheck

logger = logging.getLogger("taximeter.sidecar")

CONNECT_PAUSE_S = 0.5


async def run_sidecar(settings: SidecarSettings, pricer: Pricer) -> bool:
    """Serve until a signal has come and the drain is over. Returns whether it could start.

    What was answered is in Redis. Commits of callers who left are finished before this returns, or
    given up at the end of the grace; their holds then end at their deadlines.
    """

    async def ready() -> None:
        try:
            await sidecar.ready()
        except Refusal as error:
            raise StoreUnavailable(str(error)) from error

    async with AsyncExitStack() as stack:
        pool: Pool | None = None
        if settings.has_database:
            # It starts also while Postgres is away: few requests need it.
            pool = await stack.enter_async_context(process_pool(settings, "taximeter-sidecar"))
        keys: Keys | None = None
        if settings.needs_keys:
            store = None
            if pool is not None:
                key_pool = await stack.enter_async_context(
                    process_pool(settings, "taximeter-sidecar-keys", size_max=KEY_CONNECTIONS)
                )
                store = KeyStore(key_pool, outage_s=settings.outage_belief_s)
                stack.push_async_callback(store.aclose)
                store.listen()
            keys = Keys(settings.keys, store)
        age = PriceAge(pricer, settings.price_age_max_days)
        lists_file = settings.price_lists_file
        status = None
        if pool is not None:
            health = HealthCheck(
                Stores(pool, None, settings.key_prefix), ready=ready, prices=age.word
            )
            stack.push_async_callback(health.aclose)
            status = status_of(health)
        sidecar = create_sidecar(
            None,
            pricer=pricer,
            keys=keys,
            body_bytes_max=settings.sidecar_body_bytes_max,
            holds=make_holds(settings),
            forward_auth=settings.forward_auth,
            status=status,
            price_alarm=age.word,
        )
        outermost = Outermost(sidecar, settings.sidecar_log_requests, settings.strangers_per_minute)
        server = DrainingServer(
            server_config(outermost, settings), sidecar, settings.sidecar_drain_s
        )
        sockets = None
        if (path := settings.sidecar_socket) is not None:
            sockets = [open_unix_socket(path, int(settings.sidecar_socket_mode, 8))]
            stack.callback(path.unlink, missing_ok=True)
        loader = None if pool is None else account_loader(pool)
        await stack.enter_async_context(_meter_of(sidecar, settings, loader))
        await stack.enter_async_context(
            following(pricer, settings.price_file_check_s, Editions(pool, lists_file), age)
        )
        await server.serve(sockets=sockets)
    return server.started


def status_of(health: HealthCheck) -> Callable[[], Awaitable[tuple[int, bytes]]]:
    """The state of the system as the sidecar answers it."""

    async def status() -> tuple[int, bytes]:
        found = await health.get()
        return found.http_status, found.model_dump_json().encode()

    return status


@asynccontextmanager
async def _meter_of(
    sidecar: Sidecar, settings: SidecarSettings, loader: Loader | None
) -> AsyncIterator[None]:
    """Connect the meter in the background: the sidecar also starts, and says so, while Redis is
    away.
    """
    connecting = asyncio.create_task(_connect(sidecar, settings, loader))
    try:
        yield
    finally:
        connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            meter = await connecting
            await meter.aclose(settings.sidecar_grace_s * (1 - REQUESTS_SHARE))


async def _connect(sidecar: Sidecar, settings: SidecarSettings, loader: Loader | None) -> Meter:
    said = ""
    while True:
        try:
            meter = await Meter.connect(
                settings.redis_url,
                loader=loader,
                settings=settings.meter_settings(),
                credit=settings.credit,
            )
        except (MeterError, OSError) as error:
            refusal = error if isinstance(error, MeterError) else StoreUnavailable(str(error))
            sidecar.refuse(refusal)
            if str(refusal) != said:
                said = str(refusal)
                logger.warning("waiting for Redis: %s", said)
            await asyncio.sleep(CONNECT_PAUSE_S)
        else:
            # Whatever becomes of Redis now: with a credit line it goes on, and its journal is ours.
            sidecar.attach(meter)
            with contextlib.suppress(asyncio.CancelledError):  # Who stops us closes the meter.
                logger.info("connected to Redis; %s", await _promise_of(meter))
            return meter


async def _promise_of(meter: Meter) -> str:
    try:
        return await meter.promise()
    except MeterError as error:
        return f"what it promises could not be read: {error}"
