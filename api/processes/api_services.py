"""Opens what one running API is made of at its start, and closes it at its end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from taximeter.api.access.api_keys import KEY_CONNECTIONS, KeyStore
from taximeter.api.access.cookies import ON_LOOPBACK, OVER_TLS
from taximeter.api.access.dev_tokens import DEV_ISSUER, load_dev_key
from taximeter.api.access.jwks import KeySet
from taximeter.api.access.memberships import Memberships
from taximeter.api.access.rate_limits import RateLimiter, limits_of
from taximeter.api.access.sessions import DevVerifier, OidcVerifier, RememberingVerifier, Verifier
from taximeter.api.access.system_admins import SystemAdmins
from taximeter.api.access.system_keys import SystemKeys
from taximeter.api.access.user_emails import EmailNotes
from taximeter.api.billing.charges import Charges
from taximeter.api.billing.live_balances import LiveBalances
from taximeter.api.billing.payments import PaymentVerifier
from taximeter.api.billing.refused_charges import RefusalAudit
from taximeter.api.llm.charge import Keepers
from taximeter.api.llm.late_charges import taking_late_charges
from taximeter.api.llm.progress import ProgressReports
from taximeter.api.llm.services import LlmServices
from taximeter.api.llm.unsent_charges import PendingCharges
from taximeter.api.prices.editions import Editions
from taximeter.api.prices.followed import PriceAge, following, make_holds
from taximeter.api.processes.database import open_directory, process_pool
from taximeter.api.running.installation_watch import InstallationWatch
from taximeter.api.running.live_looks import LiveLooks
from taximeter.api.running.replica_reads import Reports
from taximeter.api.running.services import MeterGate
from taximeter.api.settings.api import ApiSettings
from taximeter.api.sign_in.browser_sessions import BrowserSessions
from taximeter.api.sign_in.dev_people import DevPeople
from taximeter.api.sign_in.provider import Client, Provider
from taximeter.api.upstreams.catalogue import Catalogue
from taximeter.api.upstreams.config import RoutingConfig, check_providers
from taximeter.api.upstreams.resting import StoreRest
from taximeter.api.upstreams.router import Router, upstream_health
from taximeter.api.web.background import REQUESTS_SHARE, Grace, TaskTracker
from taximeter.api.web.fair_shares import FairShares
from taximeter.meter.pricing import Pricer
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.connection_pools import make_replica_pool
from taximeter.settler.books.stores import Pool, Stores, open_redis
from taximeter.settler.books.timelines import Timelines
from taximeter.settler.books.timelines import following as following_timelines
from taximeter.settler.notices.sealing import Sealer
from taximeter.settler.settling.read_your_writes import CatchUp
from taximeter.settler.status.health import HealthCheck
from taximeter.settler.status.tracing import tracing_of

logger = logging.getLogger("taximeter.api")

CLOSE_S = 1.0
"""Nobody waits for Postgres any more when its connections are closed."""
EXPORTS_MAX = 16
"""Exports that one process sends at a time."""
GOOGLE = "https://accounts.google.com"


def make_keys(settings: ApiSettings, client: httpx.AsyncClient) -> KeySet:
    """The keys of the configured issuer, which are fetched when they are first needed."""
    return KeySet(
        settings.oidc_jwks_url,
        client,
        issuer=settings.oidc_issuer or "",
        algorithms=settings.oidc_algorithms,
        ttl_s=settings.oidc_keys_ttl_s,
        min_interval_s=settings.oidc_keys_interval_s,
    )


def make_verifier(settings: ApiSettings, keys: KeySet) -> Verifier:
    """What checks sessions: the local key in dev mode, else the configured issuer's keys."""
    if settings.dev_mode:
        logger.warning("dev mode: sessions are tokens of a local key; not for production")
        return DevVerifier(
            load_dev_key(settings.data_dir),
            admin_role=settings.admin_role,
            members_role=settings.members_role,
        )
    if settings.oidc_issuer == GOOGLE and "hd" not in settings.oidc_required_claims:
        logger.warning(
            "anybody with a Google account has a session here: TAXIMETER_OIDC_REQUIRED_CLAIMS"
            ' such as {"hd": "example.com"} lets in those of your domain alone'
        )
    return OidcVerifier(
        keys,
        issuer=settings.oidc_issuer or "",
        audience=settings.oidc_audience or "",
        algorithms=settings.oidc_algorithms,
        admin_role=settings.admin_role,
        members_role=settings.members_role,
        paths=settings.claim_paths,
        only_access_tokens=settings.oidc_only_access_tokens,
        required=settings.required_claims,
        id_tokens=settings.oidc_id_tokens,
    )


def make_provider(
    settings: ApiSettings, client: httpx.AsyncClient, keys: KeySet
) -> Provider | None:
    """What signs people in at the console, where the settings say how. Never in dev mode."""
    origin = settings.console_origin
    if settings.dev_mode or settings.oidc_client_id is None or origin is None:
        return None
    secret = settings.oidc_client_secret
    return Provider(
        client,
        keys,
        Client(
            client_id=settings.oidc_client_id,
            secret=None if secret is None else secret.get_secret_value(),
            scopes=settings.oidc_scopes,
            redirect_uri=f"{origin}/console/session/back",
            signed_out_uri=f"{origin}/console/signed-out",
            parameters=settings.oidc_sign_in_parameters,
        ),
        issuer=settings.oidc_issuer or "",
        algorithms=settings.oidc_algorithms,
        id_tokens=settings.oidc_id_tokens,
    )


def make_dev_people(settings: ApiSettings, pool: Pool) -> DevPeople | None:
    """Whom one may choose to be, in dev mode alone."""
    if not settings.dev_mode:
        return None
    return DevPeople(
        pool,
        load_dev_key(settings.data_dir),
        admin_role=settings.admin_role,
        lives_s=settings.console_session_s,
    )


@asynccontextmanager
async def open_services(
    settings: ApiSettings,
    routing: RoutingConfig | None,
    pricer: Pricer,
    payments: PaymentVerifier | None = None,
) -> AsyncIterator[LlmServices]:
    """Open everything and close it again in the order that loses nothing: charges first,
    connections after them. Raises ConfigError for an upstream at a provider that no price list has.
    """
    async with AsyncExitStack() as stack:
        redis = open_redis(settings)
        stack.push_async_callback(redis.aclose)
        timelines = Timelines()
        await stack.enter_async_context(following_timelines(timelines, redis, settings.key_prefix))
        # The API starts also while Postgres is away; its status says so.
        pool = await stack.enter_async_context(
            process_pool(
                settings,
                "taximeter-api",
                close_s=CLOSE_S,
                timelines=timelines,
                # Compiling a report costs more than running it, where Postgres is built for it.
                server_settings={"jit": "off"},
            )
        )
        directory = await stack.enter_async_context(
            open_directory(settings, "taximeter-api", close_s=CLOSE_S)
        )
        tracing = await stack.enter_async_context(tracing_of(settings, "api"))
        meters = MeterGate(settings, account_loader(pool), directory, tracing)
        grace = Grace(settings.shutdown_grace_s * (1 - REQUESTS_SHARE))

        async def close_meter() -> None:
            await meters.aclose(grace.left_s())

        stack.push_async_callback(close_meter)
        plain_client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        router = None
        if routing is not None:
            router = await stack.enter_async_context(Router.open(routing))
            if tracing is not None:
                for upstream in router.upstreams.values():
                    upstream.times.trace_with(tracing.current_trace_id)
        age = PriceAge(pricer, settings.price_age_max_days)
        editions = Editions(pool, settings.price_lists_file)
        await stack.enter_async_context(
            following(pricer, settings.price_file_check_s, editions, age)
        )
        if pricer.knows_editions:
            check_providers(routing, pricer)
        key_pool = await stack.enter_async_context(
            process_pool(
                settings,
                "taximeter-api-keys",
                size_max=KEY_CONNECTIONS,
                close_s=CLOSE_S,
                timelines=timelines,
            )
        )
        keys = KeyStore(
            key_pool, outage_s=settings.outage_belief_s, has_cells=settings.cell is not None
        )
        stack.push_async_callback(keys.aclose)
        keys.listen()
        tracker = TaskTracker()
        pending = PendingCharges(settings.charges_folder, meters.get, directory)
        stack.push_async_callback(pending.aclose)
        await pending.open()
        await stack.enter_async_context(taking_late_charges(directory, pending))
        progress = ProgressReports()
        stack.push_async_callback(progress.aclose)

        async def drain() -> None:
            grace.begin()
            await tracker.drain(grace.left_s())

        stack.push_async_callback(drain)
        stores = Stores(pool, redis, settings.key_prefix)
        installation = InstallationWatch(pool, settings.installation)
        await stack.enter_async_context(installation.watching())
        health = HealthCheck(stores, upstream=lambda: upstream_health(router), prices=age.word)
        stack.push_async_callback(health.aclose)
        replica = None
        if settings.reports_database_url is not None:
            replica = await stack.enter_async_context(
                make_replica_pool(
                    settings.reports_database_url,
                    "taximeter-api-reports",
                    size_max=settings.database_pool_max,
                    command_timeout_s=settings.database_timeout_s,
                    wait_s=settings.database_wait_s,
                    close_s=CLOSE_S,
                )
            )
        catch_up = CatchUp(
            stores, settings.usage_wait_s, booked=None if tracing is None else tracing.settled
        )
        stack.push_async_callback(catch_up.aclose)
        looks = LiveLooks(pool, meters.get)
        stack.push_async_callback(looks.aclose)
        issuer_keys = make_keys(settings, plain_client)
        provider = make_provider(settings, plain_client, issuer_keys)
        yield LlmServices(
            settings=settings,
            pool=pool,
            stores=stores,
            installation=installation,
            meters=meters,
            live=LiveBalances(stores, tracker, meters.get),
            looks=looks,
            verifier=RememberingVerifier(
                make_verifier(settings, issuer_keys), found_good=EmailNotes(pool, tracker).note
            ),
            browsers=BrowserSessions(
                pool,
                tracker,
                OVER_TLS if (settings.console_url or "").startswith("https:") else ON_LOOPBACK,
                lives_s=settings.console_session_s,
                renew=None if provider is None else provider.renew,
            ),
            provider=provider,
            dev_people=make_dev_people(settings, pool),
            admins=SystemAdmins(
                pool,
                DEV_ISSUER if settings.dev_mode else settings.oidc_issuer or "",
                outage_s=settings.outage_belief_s,
            ),
            router=router,
            catalogue=None if router is None else Catalogue(router),
            pricer=pricer,
            price_age=age,
            holds=make_holds(settings),
            tracker=tracker,
            memberships=Memberships(
                pool, settings.membership_cache_s, outage_s=settings.outage_belief_s
            ),
            keys=keys,
            system_keys=SystemKeys(pool, keys.seal),
            health=health,
            catch_up=catch_up,
            charges=Charges(settings.archive_url),
            exports=FairShares(EXPORTS_MAX, "exports", always=2),
            reports=Reports(pool, replica),
            directory=directory,
            sealer=(
                Sealer(settings.notice_keys.get_secret_value()) if settings.notice_keys else None
            ),
            tracing=tracing,
            refusals=RefusalAudit(pool, tracker),
            store=StoreRest(credit.limits if (credit := settings.credit) else ()),
            keepers=Keepers(tracker, progress, pending),
            extra_fields=frozenset(settings.llm_extra_fields)
            | ({"simulate"} if settings.dev_mode else set()),
            requests=FairShares(settings.llm_requests_max, "requests"),
            bodies=FairShares(
                max(settings.llm_bodies_bytes_max, 3 * settings.llm_body_bytes_max),
                "bytes of requests",
                always=settings.llm_body_bytes_max,
            ),
            payments=payments,
            limiter=RateLimiter(redis, settings.key_prefix, limits_of(settings)),
        )
