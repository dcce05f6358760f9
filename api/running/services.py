"""Lists the parts of one running API that its routes share. What opens and closes them is
`processes.api_services`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taximeter.api.access.api_keys import KeyStore
from taximeter.api.access.memberships import Memberships
from taximeter.api.access.rate_limits import RateLimiter
from taximeter.api.access.sessions import Verifier
from taximeter.api.access.system_admins import SystemAdmins
from taximeter.api.access.system_keys import SystemKeys
from taximeter.api.billing.charges import Charges
from taximeter.api.billing.live_balances import LiveBalances
from taximeter.api.billing.payments import PaymentVerifier
from taximeter.api.prices.followed import PriceAge
from taximeter.api.running.installation_watch import InstallationWatch
from taximeter.api.running.live_looks import LiveLooks
from taximeter.api.running.replica_reads import Reports
from taximeter.api.settings.api import ApiSettings
from taximeter.api.sign_in.browser_sessions import BrowserSessions
from taximeter.api.sign_in.dev_people import DevPeople
from taximeter.api.sign_in.provider import Provider
from taximeter.api.upstreams.router import Router
from taximeter.api.web.background import TaskTracker
from taximeter.api.web.fair_shares import FairShares
from taximeter.meter import Loader, Meter, MeterError, StoreUnavailable
from taximeter.meter.pricing import Pricer
from taximeter.settler.books.directory import Directory
from taximeter.settler.books.stores import Pool, Stores
from taximeter.settler.notices.sealing import Sealer
from taximeter.settler.settling.read_your_writes import CatchUp
from taximeter.settler.status.health import HealthCheck

if TYPE_CHECKING:
    from taximeter.settler.status.spans import Tracing

logger = logging.getLogger("taximeter.api")

METER_RETRY_S = 0.5


class MeterGate:
    """The meter, connected when it is first needed: the API also starts, and says so, while Redis
    is away.
    """

    def __init__(
        self,
        settings: ApiSettings,
        loader: Loader,
        directory: Directory | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._settings = settings
        self._connect = Meter.connect if tracing is None else tracing.connect_meter
        self._directory = directory
        self._loader = loader
        self._meter: Meter | None = None
        self._connecting = asyncio.Lock()
        self._tried_at = float("-inf")
        self._refusal: MeterError | None = None

    @property
    def current(self) -> Meter | None:
        """The meter, if it is connected."""
        return self._meter

    async def get(self) -> Meter:
        """The connected meter. Raises MeterError; a failed attempt is not repeated for half a
        second.
        """
        if self._meter is not None:
            return self._meter
        async with self._connecting:
            if self._meter is not None:
                return self._meter
            if self._refusal is not None and time.monotonic() - self._tried_at < METER_RETRY_S:
                raise self._refusal
            try:
                self._meter = await self._connect(
                    self._settings.redis_url,
                    loader=self._loader,
                    settings=self._settings.meter_settings(),
                    credit=self._settings.credit,
                    elsewhere=None if self._directory is None else self._directory.check,
                )
                logger.info("connected to Redis; %s", await self._meter.promise())
            except MeterError as error:
                self._refusal, self._tried_at = error, time.monotonic()
                raise
            except OSError as error:
                self._refusal, self._tried_at = StoreUnavailable(str(error)), time.monotonic()
                raise self._refusal from error
        return self._meter

    async def aclose(self, timeout_s: float) -> None:
        """Close the connection, if there is one; what is queued has this long to finish."""
        if self._meter is not None:
            await self._meter.aclose(timeout_s)


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one running API that any route may ask for."""

    settings: ApiSettings
    pool: Pool
    stores: Stores
    installation: InstallationWatch
    meters: MeterGate
    live: LiveBalances
    looks: LiveLooks
    verifier: Verifier
    browsers: BrowserSessions
    provider: Provider | None
    dev_people: DevPeople | None
    admins: SystemAdmins
    router: Router | None
    pricer: Pricer
    price_age: PriceAge
    tracker: TaskTracker
    memberships: Memberships
    keys: KeyStore
    system_keys: SystemKeys
    health: HealthCheck
    limiter: RateLimiter
    payments: PaymentVerifier | None
    catch_up: CatchUp
    charges: Charges
    exports: FairShares
    reports: Reports
    directory: Directory | None
    sealer: Sealer | None
    tracing: Tracing | None
