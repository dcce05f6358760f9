"""Prices and holds as the settings say, and the operator's price file followed: what it says is
charged within seconds, without a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taximeter.api.exact import MILLICREDITS_PER_CREDIT
from taximeter.api.price_settings import PriceSettings
from taximeter.meter.estimates import EstimatedHolds, HoldPolicy
from taximeter.meter.pricing import PriceFileError, Pricer, TokenPrice

logger = logging.getLogger("taximeter.prices")


def make_pricer(settings: PriceSettings) -> Pricer:
    """The price lists, multiplied as the settings say. Raises PriceFileError."""
    return Pricer(
        credits_per_dollar=settings.credits_per_dollar,
        markup=settings.markup,
        markup_by_plan=settings.markup_by_plan,
        markup_by_power_level=settings.markup_by_power_level,
        price_file=settings.price_file,
        unknown_model=settings.unknown_model,
        default_price=TokenPrice(
            settings.default_input_usd_per_million, settings.default_output_usd_per_million
        ),
        provider_id=settings.pricing_provider,
    )


def make_holds(settings: PriceSettings) -> EstimatedHolds:
    """How much of an estimate is held."""
    cap = settings.estimate_cap_credits
    return EstimatedHolds(
        HoldPolicy(
            cap=None if cap is None else int(cap * MILLICREDITS_PER_CREDIT),
            share=settings.estimate_share,
            floor=int(settings.estimate_floor_credits * MILLICREDITS_PER_CREDIT),
        )
    )


@asynccontextmanager
async def following(pricer: Pricer | None, every_s: float) -> AsyncIterator[None]:
    """Look at the file this often while the block runs. A file that cannot be used is logged once,
    and the prices stay as they were.
    """
    if pricer is None:
        yield
        return
    task = asyncio.create_task(_follow(pricer, every_s))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _follow(pricer: Pricer, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            # In a thread, since a large file takes some tenths of a second to read.
            if await asyncio.to_thread(pricer.reload):
                logger.warning("the price file was read anew: %s", pricer.file_version)
        except PriceFileError as error:
            logger.error("the price file is not used, prices stay as they were: %s", error)
        except Exception:
            logger.exception("the price file could not be looked at")
