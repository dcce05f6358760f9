"""Opens what a running sidecar is made of, in order: stores, meter, prices, server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from prometheus_client.core import Metric
from starlette.types import ASGIApp

from taximeter.api.access.api_keys import KEY_CONNECTIONS, KeyStore
from taximeter.api.prices.editions import Editions
from taximeter.api.prices.followed import PriceAge, following, make_holds
from taximeter.api.processes.database import open_directory, process_pool
from taximeter.api.processes.exposed import metrics_port
from taximeter.api.processes.several import Member, Several, close_all, reserve_port, share_port
from taximeter.api.processes.sidecar_keys import Keys
from taximeter.api.processes.sidecar_server import DrainingServer, open_unix_socket, server_config
from taximeter.api.running.installation_watch import InstallationWatch
from taximeter.api.running.meter_metrics import meter_families
from taximeter.api.running.price_metrics import price_families
from taximeter.api.settings.sidecar import SidecarSettings
from taximeter.api.web.background import REQUESTS_SHARE
from taximeter.api.web.outermost import Outermost
from taximeter.api.web.refusal_metrics import refusal_families
from taximeter.meter import Loader, Meter, MeterError, StoreUnavailable
from taximeter.meter.garbage import freeze_start
from taximeter.meter.pricing import Pricer
from taximeter.meter.sidecar import Sidecar, create_sidecar
from taximeter.meter.sidecar.answers import Refusal
from taximeter.meter.sidecar.app import ROUTES
from taximeter.meter.sidecar.forward_auth import PREFIX
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.directory import Directory
from taximeter.settler.books.stores import Pool, Stores, open_redis
from taximeter.settler.books.timelines import Timelines
from taximeter.settler.books.timelines import following as following_timelines
from taximeter.settler.status.health import HealthCheck
from taximeter.settler.status.metrics import Exposition
from taximeter.settler.status.tracing import tracing_of

if TYPE_CHECKING:
    from taximeter.settler.status.spans import Tracing

logger = logging.getLogger("taximeter.sidecar")

CONNECT_PAUSE_S = 0.5


async def run_several_sidecars(
    settings: SidecarSettings, command: Callable[[int, str], Sequence[str]]
) -> bool:
    """Keep `sidecar_processes` processes that serve together until a signal has come and all have
    drained. `command` is that of one, by its number and the option that says where it listens.
    Returns whether all went well. Raises OSError when nobody can listen there.
    """
    with contextlib.ExitStack() as stack:
        if (path := settings.sidecar_socket) is not None:
            sockets = [open_unix_socket(path, int(settings.sidecar_socket_mode, 8))]
            stack.callback(path.unlink, missing_ok=True)
            where, listening = f"unix {path}", f"--inherited={sockets[0].fileno()}"
        else:
            sockets = reserve_port(settings.sidecar_host, settings.sidecar_port)
            port = sockets[0].getsockname()[1]
            where, listening = f"http://{settings.sidecar_host}:{port}", f"--port={port}"
        stack.callback(close_all, sockets)
        logger.info("%d processes are to serve %s", settings.sidecar_processes, where)
        if settings.sidecar_metrics_port is None:
            logger.warning("nobody can read their metrics: TAXIMETER_SIDECAR_METRICS_PORT is unset")
        several = Several(
            settings.sidecar_processes, lambda number: command(number, listening), sockets
        )
        return await several.run()


async def run_sidecar(
    settings: SidecarSettings, pricer: Pricer, member: Member | None = None
) -> bool:
    """Serve until a signal has come and the drain is over, alone or as a member of several
    processes. Returns whether it could start. Raises OSError when nobody can listen there.

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
        key_pool: Pool | None = None
        timelines = Timelines()
        if settings.has_database:
            redis = open_redis(settings)
            stack.push_async_callback(redis.aclose)
            await stack.enter_async_context(
                following_timelines(timelines, redis, settings.key_prefix)
            )
            # It starts also while Postgres is away: few requests need it.
            pool = await stack.enter_async_context(
                process_pool(settings, "taximeter-sidecar", timelines=timelines)
            )
        keys: Keys | None = None
        if settings.needs_keys:
            store = None
            if pool is not None:
                key_pool = await stack.enter_async_context(
                    process_pool(
                        settings,
                        "taximeter-sidecar-keys",
                        size_max=KEY_CONNECTIONS,
                        timelines=timelines,
                    )
                )
                store = KeyStore(
                    key_pool,
                    outage_s=settings.outage_belief_s,
                    has_cells=settings.cell is not None,
                )
                stack.push_async_callback(store.aclose)
                store.listen()
            keys = Keys(settings.keys, store)
        age = PriceAge(pricer, settings.price_age_max_days)
        lists_file = settings.price_lists_file
        status, health = None, None
        if pool is not None:
            health = HealthCheck(
                Stores(pool, None, settings.key_prefix), ready=ready, prices=age.word
            )
            stack.push_async_callback(health.aclose)
            status = status_of(health)
        tracing = await stack.enter_async_context(tracing_of(settings, "sidecar"))
        exposition = Exposition("sidecar", health)
        if tracing is not None:
            exposition.add(tracing.families)
        if pool is not None:
            exposition.watch_pool("sidecar", pool)
        if key_pool is not None:
            exposition.watch_pool("sidecar-keys", key_pool)
        await stack.enter_async_context(exposition.watching_loop())
        sidecar = create_sidecar(
            None,
            pricer=pricer,
            keys=keys,
            body_bytes_max=settings.sidecar_body_bytes_max,
            holds=make_holds(settings),
            forward_auth=settings.forward_auth,
            status=status,
            price_alarm=age.word,
            # One of several would answer for itself, and callers do not know for which.
            metrics=exposition.text if member is None else None,
        )
        outermost = Outermost(
            sidecar,
            settings.sidecar_log_requests,
            settings.strangers_per_minute,
            routes=ROUTES,
            surface_of=lambda path: "gate" if path.startswith(PREFIX) else "sidecar",
        )
        add_sidecar_families(exposition, outermost, sidecar, pricer)
        if (port := settings.sidecar_metrics_port) is not None:
            port += 0 if member is None else member.number
            await stack.enter_async_context(
                metrics_port(exposition, settings.sidecar_metrics_host, port)
            )

        def started() -> None:
            freeze_start()
            if member is not None:
                member.say_ready()

        entry: ASGIApp = outermost
        if tracing is not None:
            from taximeter.api.web.traced import TracedRequests

            entry = TracedRequests(outermost, tracing, ROUTES)
        server = DrainingServer(
            server_config(entry, settings), sidecar, settings.sidecar_drain_s, started
        )
        sockets: list[socket.socket] | None = None
        if member is not None:
            if member.inherited is not None:
                sockets = [socket.socket(fileno=member.inherited)]
                sockets[0].setblocking(False)
            else:
                sockets = share_port(settings.sidecar_host, settings.sidecar_port)
            stack.enter_context(member.following_keeper(server.begin_drain, server.stop_now))
        elif (path := settings.sidecar_socket) is not None:
            sockets = [open_unix_socket(path, int(settings.sidecar_socket_mode, 8))]
            stack.callback(path.unlink, missing_ok=True)
        if pool is not None:
            installation = InstallationWatch(pool, settings.installation, sidecar.stop_taking)
            await stack.enter_async_context(installation.watching())
        loader = None if pool is None else account_loader(pool)
        directory = await stack.enter_async_context(open_directory(settings, "taximeter-sidecar"))
        await stack.enter_async_context(_meter_of(sidecar, settings, loader, directory, tracing))
        await stack.enter_async_context(
            following(pricer, settings.price_file_check_s, Editions(pool, lists_file), age)
        )
        await server.serve(sockets=sockets)
    return server.started


def add_sidecar_families(
    exposition: Exposition, outermost: Outermost, sidecar: Sidecar, pricer: Pricer
) -> None:
    """Everything that a sidecar tells beside what every process does."""
    exposition.add(outermost.times.families)
    exposition.add(lambda: meter_families(sidecar.meter))
    exposition.add(lambda: _refusals(outermost, sidecar))
    exposition.add(lambda: price_families(pricer))


def _refusals(outermost: Outermost, sidecar: Sidecar) -> Iterable[Metric]:
    counts = outermost.refusals.copy()
    for cause, number in sidecar.refused_in_batches.items():
        counts["sidecar", cause] += number
    return refusal_families(counts, "sidecar", "gate")


def status_of(health: HealthCheck) -> Callable[[], Awaitable[tuple[int, bytes]]]:
    """The state of the system as the sidecar answers it."""

    async def status() -> tuple[int, bytes]:
        found = await health.get()
        return found.http_status, found.model_dump_json().encode()

    return status


@asynccontextmanager
async def _meter_of(
    sidecar: Sidecar,
    settings: SidecarSettings,
    loader: Loader | None,
    directory: Directory | None,
    tracing: Tracing | None,
) -> AsyncIterator[None]:
    """Connect the meter in the background: the sidecar also starts, and says so, while Redis is
    away.
    """
    connecting = asyncio.create_task(_connect(sidecar, settings, loader, directory, tracing))
    try:
        yield
    finally:
        connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            meter = await connecting
            await meter.aclose(settings.sidecar_grace_s * (1 - REQUESTS_SHARE))


async def _connect(
    sidecar: Sidecar,
    settings: SidecarSettings,
    loader: Loader | None,
    directory: Directory | None = None,
    tracing: Tracing | None = None,
) -> Meter:
    said = ""
    connect = Meter.connect if tracing is None else tracing.connect_meter
    while True:
        try:
            meter = await connect(
                settings.redis_url,
                loader=loader,
                settings=settings.meter_settings(),
                credit=settings.credit,
                elsewhere=None if directory is None else directory.check,
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
