"""Which model a LiteLLM name stands for: prices are of models, and callers name model groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Model(NamedTuple):
    """The name that the price list knows, and the most output tokens of one answer if known."""

    name: str
    ceiling: int | None


def dearest_behind(group: str, team_id: str | None) -> Model:
    """The deployment of a model group whose output costs most: any of them may answer, and a hold
    must cover it.
    """
    router = _router()
    deployments = [] if router is None else router.get_model_list(group, team_id=team_id) or []
    names = [name for one in deployments if (name := price_name(one)) is not None]
    if not names:
        return _model(_without_provider(group))
    return _model(max(names, key=lambda name: _listed(name).get("output_cost_per_token") or 0))


def name_of_deployment(model_id: object) -> str | None:
    """The model of the deployment that answered."""
    router = _router()
    if router is None or not isinstance(model_id, str):
        return None
    found = router.get_deployment(model_id)
    return None if found is None else price_name(found.model_dump(exclude_none=True))


def price_name(deployment: Mapping[str, Any]) -> str | None:
    """`base_model` where the operator set it, as for LiteLLM's own prices; else the model without
    the provider in front.
    """
    parameters = deployment.get("litellm_params") or {}
    for place in (deployment.get("model_info") or {}, parameters):
        if isinstance(base := place.get("base_model"), str) and base:
            return _without_provider(base)
    model = parameters.get("model")
    return _without_provider(model) if isinstance(model, str) and model else None


def _without_provider(model: str) -> str:
    provider, separator, rest = model.partition("/")
    return rest if separator and provider in _providers() else model


def _model(name: str) -> Model:
    ceiling = _listed(name).get("max_output_tokens")
    return Model(name, ceiling if type(ceiling) is int and ceiling > 0 else None)


def _listed(name: str) -> Mapping[str, Any]:
    import litellm

    found: Mapping[str, Any] = litellm.model_cost.get(name) or {}
    return found


def _providers() -> Any:
    import litellm

    return litellm.provider_list


def _router() -> Any:
    from litellm.proxy import proxy_server

    return proxy_server.llm_router
