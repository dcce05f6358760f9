"""Prices model calls: a model and token counts in, whole millicredits out.

    price = pricer.price("gpt-4o", plan="starter")      # once a request, at the reserve
    hold = price.estimate(prompt_tokens, max_tokens, n)
    cost = price.cost(usage)                            # any provider's usage object
    metadata = price.metadata()                         # which price it was, for the record

A price is fixed once it is made; `packed` and `Price.unpacked` carry it with a hold. Where several
providers may answer, hold for the dearest, `max(one.estimate(...) for one in prices)`, and charge
by the price of the one that did. Money is exact up to the single rounding at the end of a request,
which is upwards to a whole millicredit, so that many small requests never add up to less than was
paid upstream.

Standard library only: the published list needs the package `genai-prices` (in the extra `server`),
and without it prices come from the operator's file and the policy for unknown models.
"""

from __future__ import annotations

from taximeter.meter.pricing.ceilings import output_ceiling
from taximeter.meter.pricing.kinds import KINDS, TOKENS_MAX
from taximeter.meter.pricing.price import Price, UnpricedModel
from taximeter.meter.pricing.price_file import PriceFile, PriceFileError, read_price_file
from taximeter.meter.pricing.pricer import (
    Pricer,
    TokenPrice,
    UnknownModelPolicy,
)
from taximeter.meter.pricing.usage_objects import Counts, UnknownUsage, checked_counts, counts_of

__all__ = [
    "KINDS",
    "TOKENS_MAX",
    "Counts",
    "Price",
    "PriceFile",
    "PriceFileError",
    "Pricer",
    "TokenPrice",
    "UnknownModelPolicy",
    "UnknownUsage",
    "UnpricedModel",
    "checked_counts",
    "counts_of",
    "output_ceiling",
    "read_price_file",
]
