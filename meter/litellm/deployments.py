"""Tells which model a LiteLLM name stands for: prices are of models at a host, and callers name
model groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Model(NamedTuple):
    """What the price lists are asked for: a model, and the host that sells it under any of its
    names (None where nobody says). `ceiling` is the most output tokens of one answer, if known.
    """

    name: str
    provider: str | None
    ceiling: int | None = None

    @property
    def fields(self) -> dict[str, str]:
        """As the sidecar takes it."""
        named = {"model": self.name}
        return named if self.provider is None else {**named, "provider": self.provider}


def dearest_behind(group: str, team_id: str | None) -> Model:
    """The deployment of a model group whose output costs most: any of them may answer, and a hold
    must cover it.
    """
    router = _router()
    deployments = [] if router is None else router.get_model_list(group, team_id=team_id) or []
    models = [model for one in deployments if (model := model_of(one)) is not None]
    if not models:
        return _split(group, None)
    return max(models, key=lambda model: _listed(model).get("output_cost_per_token") or 0)


def model_of_deployment(model_id: object) -> Model | None:
    """The model of the deployment that answered."""
    router = _router()
    if router is None or not isinstance(model_id, str):
        return None
    found = router.get_deployment(model_id)
    return None if found is None else model_of(found.model_dump(exclude_none=True))


def model_of(deployment: Mapping[str, Any]) -> Model | None:
    """`base_model` where the operator set it, as for LiteLLM's own prices, else the model; sold by
    the provider that stands in front of it, else by the deployment's.
    """
    parameters = deployment.get("litellm_params") or {}
    given = parameters.get("custom_llm_provider")
    provider = given if isinstance(given, str) and given else None
    model = parameters.get("model")
    called = _split(model, provider) if isinstance(model, str) and model else None
    for place in (deployment.get("model_info") or {}, parameters):
        if isinstance(base := place.get("base_model"), str) and base:
            found = _split(base, None)
            if found.provider is None:
                found = found._replace(provider=provider if called is None else called.provider)
            return found
    return called


def _split(model: str, provider: str | None) -> Model:
    prefix, separator, rest = model.partition("/")
    if separator and prefix in _providers() and provider in (None, prefix):
        provider = prefix
        # Perplexity stands in front of some of its models twice: with less it is another model.
        if not (rest.startswith(f"{prefix}/") and model in _prices()):
            model = rest
    found = Model(model, provider)
    ceiling = _listed(found).get("max_output_tokens")
    return found._replace(ceiling=ceiling) if type(ceiling) is int and ceiling > 0 else found


def _listed(model: Model) -> Mapping[str, Any]:
    prices = _prices()
    names = (f"{model.provider}/{model.name}", model.name)
    found: Mapping[str, Any] = next((prices[name] for name in names if name in prices), {})
    return found


def _prices() -> Mapping[str, Any]:
    import litellm

    found: Mapping[str, Any] = litellm.model_cost
    return found


def _providers() -> Any:
    import litellm

    return litellm.provider_list


def _router() -> Any:
    from litellm.proxy import proxy_server  # pyright: ignore[reportMissingImports]

    return proxy_server.llm_router
