"""Lists what a caller can ask for, as OpenAI's clients read it: GET /models."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel

from taximeter.api.llm.callers import API_ROOT, CLIENTS_ROOT
from taximeter.api.llm.lookup import CallerDep
from taximeter.api.llm.quote import prices_not_known
from taximeter.api.llm.services import LlmServices, LlmServicesDep
from taximeter.api.web.errors import ApiError
from taximeter.meter.pricing import UnpricedModel
from taximeter.meter.pricing.editions import PricesNotKnown

router = APIRouter(tags=["llm"])


class ModelView(BaseModel):
    """A model, in OpenAI's shape. `owned_by` is the upstream that is asked first."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str


class ModelList(BaseModel):
    """All models, in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[ModelView]


@router.get(f"{API_ROOT}/models", summary="Models that can be asked for")
@router.get(f"{CLIENTS_ROOT}/models", summary="Models, for OpenAI's clients")
async def list_models(caller: CallerDep, services: LlmServicesDep) -> ModelList:
    """Those that a route serves and that have a price."""
    if services.catalogue is None:
        return ModelList(data=[])
    names = await services.catalogue.names()
    views = [_view(services, name) for name in names]
    return ModelList(data=[view for view in views if view is not None])


@router.get(f"{API_ROOT}/models/{{model:path}}", summary="One model")
@router.get(f"{CLIENTS_ROOT}/models/{{model:path}}", summary="One model, for OpenAI's clients")
async def get_model(
    model: Annotated[str, Path(max_length=200)], caller: CallerDep, services: LlmServicesDep
) -> ModelView:
    """404 for a model that is not served, or has no price."""
    view = _view(services, model)
    if view is None:
        raise ApiError.of("model_not_found", model=model)
    return view


def _view(services: LlmServices, model: str) -> ModelView | None:
    if services.router is None:
        return None
    try:
        targets = services.router.targets(model)
    except ApiError:
        return None
    for target in targets:
        try:
            services.pricer.price(target.price_as, provider=target.provider).estimate(0, 0)
        except PricesNotKnown as error:
            raise prices_not_known() from error
        except UnpricedModel:
            continue
        return ModelView(id=model, owned_by=target.upstream.name)
    return None
