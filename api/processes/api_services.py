"""Opens what one running API is made of at its start, and closes it at its end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from taximeter.api.access.api_keys import KEY_CONNECTIONS, KeyStore
from taximeter.api.access.dev_tokens import DEV_ISSUER, load_dev_key
from taximeter.api.access.jwks import KeySet
from taximeter.api.access.memberships import Memberships
from taximeter.api.access.rate_limits import RateLimiter, limits_of
from taximeter.api.access.sessions import DevVerifier, OidcVerifier, RememberingVerifier, Verifier
from taximeter.api.access.system_admins import SystemAdmins
from taximeter.api.access.system_keys import SystemKeys
from taximeter.api.access.user_emails import EmailNotes
from taximeter.api.billing.live_balances import LiveBalances
from taximeter.api.billing.payments import PaymentVerifier
from taximeter.api.billing.refused_charges import RefusalAudit
from taximeter.api.llm.charge import Keepers
from taximeter.api.llm.progress import ProgressReports
from taximeter.api.llm.services import LlmServices
from taximeter.api.llm.unsent_charges import PendingCharges
from taximeter.api.prices.editions import Editions
from taximeter.api.prices.followed import PriceAge, following, make_holds
from taximeter.api.processes.database import process_pool
from taximeter.api.running.services import MeterGate
from taximeter.api.settings.api import ApiSettings
from taximeter.api.upstreams.catalogue import Catalogue
from taximeter.api.upstreams.config import RoutingConfig, check_providers
from taximeter.api.upstreams.resting import StoreRest
from taximeter.api.upstreams.router import Router, upstream_health
from taximeter.api.web.background import REQUESTS_SHARE, Grace, TaskTracker
from taximeter.api.web.fair_shares import FairShares
from taximeter.meter.pricing import Pricer
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.stores import Stores, open_redis
from taximeter.settler.settling.read_your_writes import CatchUp
from taximeter.settler.status.health import HealthCheck

logger = logging.getLogger("taximeter.api")

CLOSE_S = 1.0
"""Nobody waits for Postgres any more when its connections are closed."""
GOOGLE = "https://accounts.google.com"


def make_verifier(settings: ApiSettings, client: httpx.AsyncClient) -> Verifier:
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
    keys = KeySet(
        settings.oidc_jwks_url,
        client,
        issuer=settings.oidc_issuer or "",
        algorithms=settings.oidc_algorithms,
        ttl_s=settings.oidc_keys_ttl_s,
        min_interval_s=settings.oidc_keys_interval_s,
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
        # The API starts also while Postgres is away; its status says so.
        pool = await stack.enter_async_context(
            process_pool(
                settings,
                "taximeter-api",
                close_s=CLOSE_S,
                # Compiling a report costs more than running it, where Postgres is built for it.
                server_settings={"jit": "off"},
            )
        )
        redis = open_redis(settings)
        stack.push_async_callback(redis.aclose)
        meters = MeterGate(settings, account_loader(pool))
        grace = Grace(settings.shutdown_grace_s * (1 - REQUESTS_SHARE))

        async def close_meter() -> None:
            await meters.aclose(grace.left_s())

        stack.push_async_callback(close_meter)
        plain_client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        router = None
        if routing is not None:
            router = await stack.enter_async_context(Router.open(routing))
        age = PriceAge(pricer, settings.price_age_max_days)
        editions = Editions(pool, settings.price_lists_file)
        await stack.enter_async_context(
            following(pricer, settings.price_file_check_s, editions, age)
        )
        if pricer.knows_editions:
            check_providers(routing, pricer)
        key_pool = await stack.enter_async_context(
            process_pool(settings, "taximeter-api-keys", size_max=KEY_CONNECTIONS, close_s=CLOSE_S)
        )
        keys = KeyStore(key_pool, outage_s=settings.outage_belief_s)
        stack.push_async_callback(keys.aclose)
        keys.listen()
        tracker = TaskTracker()
        pending = PendingCharges(settings.charges_folder, meters.get)
        stack.push_async_callback(pending.aclose)
        await pending.open()
        progress = ProgressReports()
        stack.push_async_callback(progress.aclose)

        async def drain() -> None:
            grace.begin()
            await tracker.drain(grace.left_s())

        stack.push_async_callback(drain)
        stores = Stores(pool, redis, settings.key_prefix)
        health = HealthCheck(stores, upstream=lambda: upstream_health(router), prices=age.word)
        stack.push_async_callback(health.aclose)
        catch_up = CatchUp(stores, settings.usage_wait_s)
        stack.push_async_callback(catch_up.aclose)
        yield LlmServices(
            settings=settings,
            pool=pool,
            stores=stores,
            meters=meters,
            live=LiveBalances(stores, tracker, meters.get),
            verifier=RememberingVerifier(
                make_verifier(settings, plain_client), found_good=EmailNotes(pool, tracker).note
            ),
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
