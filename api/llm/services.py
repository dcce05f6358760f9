"""Adds what LLM requests need to the parts of one running API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from taximeter.api.billing.refused_charges import RefusalAudit
from taximeter.api.llm.charge import Keepers
from taximeter.api.running.services import Services
from taximeter.api.upstreams.catalogue import Catalogue
from taximeter.api.upstreams.resting import StoreRest
from taximeter.api.web.fair_shares import FairShares
from taximeter.meter.held_estimates import EstimatedHolds


@dataclass(frozen=True, slots=True)
class LlmServices(Services):
    """The parts of one running API, with those of LLM requests: where they go, what they cost and
    hold, who looks after their charges, and how much room there is for them.
    """

    catalogue: Catalogue | None
    holds: EstimatedHolds
    refusals: RefusalAudit
    store: StoreRest
    keepers: Keepers
    extra_fields: frozenset[str]
    requests: FairShares
    bodies: FairShares


def get_llm_services(request: Request) -> LlmServices:
    """The parts of the running application."""
    services: LlmServices = request.app.state.services
    return services


LlmServicesDep = Annotated[LlmServices, Depends(get_llm_services)]
