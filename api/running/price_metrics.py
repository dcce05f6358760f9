"""Tells for /metrics which price list is in force, and of which day it is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from taximeter.meter.pricing import Pricer


def price_families(pricer: Pricer | None) -> Iterator[Metric]:
    """Nothing before it is known which list is in force. Whether it can be used is
    `taximeter_prices_usable`.
    """
    if pricer is None or not pricer.knows_editions:
        return
    yield InfoMetricFamily(
        "taximeter_price_list", "The price list in force.", {"version": pricer.list_version}
    )
    dated = pricer.list_dated
    if dated is not None:
        midnight = datetime.combine(dated, time(), UTC)
        yield GaugeMetricFamily(
            "taximeter_price_list_dated_timestamp_seconds",
            "The day of which the prices in force are.",
            midnight.timestamp(),
        )
