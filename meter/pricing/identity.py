"""Tells which model a name stands for: the host that sells it, and its name there.

A model is written in many ways: `gpt-4o`, `openai/gpt-4o`, `azure/eu/gpt-4o`,
`groq/openai/gpt-oss-120b`, `us.anthropic.claude-sonnet-4-5-20250929-v1:0`. Each is resolved here,
once, before any price list is asked, so that the operator's file, the corrections and the published
list speak of the same model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

# What gateways call a host -> its id in the published list. A host that stands on neither side is
# called what it is called, and has the prices that the operator's file gives it.
_HOSTS: Final[Mapping[str, str]] = {
    "amazon-nova": "aws",
    "amazon_nova": "aws",
    "anthropic": "anthropic",
    "arcee": "arcee",
    "avian": "avian",
    "aws": "aws",
    "azure": "azure",
    "azure_ai": "azure",
    "azure_text": "azure",
    "baseten": "baseten",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "bedrock_mantle": "aws",
    "cerebras": "cerebras",
    "cloudflare": "cloudflare",
    "codestral": "mistral",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "databricks": "databricks",
    "deepseek": "deepseek",
    "elevenlabs": "elevenlabs",
    "fireworks": "fireworks",
    "fireworks_ai": "fireworks",
    "fireworks_ai-embedding-models": "fireworks",
    "gemini": "google",
    "github-copilot": "github-copilot",
    "github_copilot": "github-copilot",
    "google": "google",
    "groq": "groq",
    "meta_llama": "meta",
    "minimax": "minimax",
    "mistral": "mistral",
    "moonshot": "moonshotai",
    "moonshotai": "moonshotai",
    "novita": "novita",
    "openai": "openai",
    "openrouter": "openrouter",
    "ovhcloud": "ovhcloud",
    "perplexity": "perplexity",
    "text-completion-codestral": "mistral",
    "text-completion-openai": "openai",
    "together": "together",
    "together_ai": "together",
    "vertex": "vertex",
    "vertex_ai": "vertex",
    "vertex_ai_beta": "vertex",
    "voyage": "voyageai",
    "voyageai": "voyageai",
    "x-ai": "x-ai",
    "xai": "x-ai",
    "zai": "zai",
    "zhipuai": "zhipuai",
}

HOSTS: Final = frozenset(_HOSTS.values())
"""Ids of the hosts that are known by name."""

# Names without a host that can be of one only: models of Bedrock begin with their maker and a dot,
# those of Vertex have an @ before their version.
_OF_HOSTS: Final = (
    (
        re.compile(
            r"(?:(?:us|eu|apac|au|ca|sa|jp|in|us-gov|global)\.)?"
            r"(?:ai21|amazon|anthropic|cohere|deepseek|google|meta|minimax|mistral|moonshotai"
            r"|nvidia|openai|qwen|stability|twelvelabs|writer|zai)\.[a-z]"
        ),
        "aws",
    ),
    (re.compile(r"[^/]+@(?:\d{3}|\d{8}|default|latest)"), "vertex"),
    (re.compile(r"@(?:cf|hf)/"), "cloudflare"),
    (re.compile(r"accounts/fireworks/"), "fireworks"),
)

# Ways of calling the same model at the same price, which gateways write between host and model.
_ROUTES: Final[Mapping[str, frozenset[str]]] = {
    "aws": frozenset(("converse", "converse_like", "invoke", "async_invoke", "bedrock")),
    "azure": frozenset(("global", "global-standard", "responses", "o_series")),
    "vertex": frozenset(("global",)),
    "openai": frozenset(("responses", "chat")),
}
_AWS_REGION: Final = re.compile(r"[a-z]{2}(?:-gov)?-[a-z]+-\d")
_AZURE_ZONES: Final = frozenset(("eu", "us", "us-gov"))
NAME_LENGTH_MAX: Final = 256


class Identity(NamedTuple):
    """A model at the host that sells it.

    provider: id of the host, empty where the name does not tell. model: its name there, in small
    letters. region: where it runs if that can make a difference in price (`eu` of Azure's data
    zones, `us-gov-west-1` of Bedrock), else empty.
    """

    provider: str
    model: str
    region: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.provider, self.region, self.model) if part)


def host_of(name: str) -> str:
    """The id of a host under any of its names; a host that nobody knows is called what it is."""
    name = name.strip().lower()
    if name.startswith("vertex_ai-"):
        return "vertex"
    return _HOSTS.get(name, name)


def identify(name: str, provider: str | None = None) -> Identity:
    """The model that a name stands for. `provider` says whose it is, under any name of that host;
    else the name decides, as far as it tells. Never raises.
    """
    model = name.strip().lower()
    if provider:
        host = host_of(provider)
        prefix, slash, rest = model.partition("/")
        if slash and rest and (host_of(prefix) == host and (prefix in _HOSTS or prefix == host)):
            model = rest
    else:
        prefix, slash, rest = model.partition("/")
        if slash and rest and prefix in _HOSTS:
            host, model = _HOSTS[prefix], rest
        else:
            host = next((of for pattern, of in _OF_HOSTS if pattern.match(model)), "")
    return _placed(host, model)


def _placed(host: str, model: str) -> Identity:
    """Take ways of calling and regions off the front of the name."""
    routes, region = _ROUTES.get(host, frozenset()), ""
    while True:
        first, slash, rest = model.partition("/")
        if not slash or not rest:
            return Identity(host, model, region)
        if first in routes:
            model = rest
        elif (host == "aws" and _AWS_REGION.fullmatch(first)) or (
            host == "azure" and first in _AZURE_ZONES
        ):
            model, region = rest, first
        else:
            return Identity(host, model, region)
