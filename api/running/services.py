"""Lists the parts of one running API that its routes share. What opens and closes them is
`processes.api_services`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from taximeter.api.access.api_keys import KeyStore
from taximeter.api.access.memberships import Memberships
from taximeter.api.access.rate_limits import RateLimiter
from taximeter.api.access.sessions import Verifier
from taximeter.api.access.system_admins import SystemAdmins
from taximeter.api.access.system_keys import SystemKeys
from taximeter.api.billing.live_balances import LiveBalances
from taximeter.api.billing.payments import PaymentVerifier
from taximeter.api.prices.followed import PriceAge
from taximeter.api.settings.api import ApiSettings
from taximeter.api.web.background import TaskTracker
from taximeter.meter import Loader, Meter, MeterError, StoreUnavailable
from taximeter.settler.books.stores import Pool, Stores
from taximeter.settler.settling.read_your_writes import CatchUp
from taximeter.settler.status.health import HealthCheck

logger = logging.getLogger("taximeter.api")

METER_RETRY_S = 0.5


class MeterGate:
    """The meter, connected when it is first needed: the API also starts, and says so, while Redis
    is away.
    """

    def __init__(self, settings: ApiSettings, loader: Loader) -> None:
        self._settings = settings
        self._loader = loader
        self._meter: Meter | None = None
        self._connecting = asyncio.Lock()
        self._tried_at = float("-inf")
        self._refusal: MeterError | None = None

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
                self._meter = await Meter.connect(
                    self._settings.redis_url,
                    loader=self._loader,
                    settings=self._settings.meter_settings(),
                    credit=self._settings.credit,
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
    meters: MeterGate
    live: LiveBalances
    verifier: Verifier
    admins: SystemAdmins
    price_age: PriceAge
    tracker: TaskTracker
    memberships: Memberships
    keys: KeyStore
    system_keys: SystemKeys
    health: HealthCheck
    limiter: RateLimiter
    payments: PaymentVerifier | None
    catch_up: CatchUp
