"""Asks a payment provider whether a payment was made: the port that one implements."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol


@dataclass(frozen=True, slots=True)
class VerifiedPayment:
    """A payment that has succeeded, as the provider says it: which organisation's, what was paid in
    dollars, and the millicredits that it pays for.
    """

    org_id: str
    dollars: Decimal
    millicredits: int


class PaymentVerifier(Protocol):
    """What knows whether a payment was made: the port of a payment provider.

    It must answer from what the provider itself has said (a signed event, or a question to its
    server), never from anything that the caller sends. `create_app` takes one.
    """

    name: str

    async def find(self, payment_id: str) -> VerifiedPayment | None:
        """The payment of this id, or None when the provider knows no such payment that has
        succeeded. Raises OSError or TimeoutError when the provider cannot be asked.
        """
