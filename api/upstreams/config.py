"""Reads the operator's upstreams from a file or from the settings of a single one, and checks them
before anything is served.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from taximeter.api.settings.api import SIMULATOR_URL, ApiSettings
from taximeter.meter.pricing import Pricer
from taximeter.meter.pricing.identity import host_of

CONNECT_TIMEOUT_S = 5.0
FILE_BYTES_MAX = 1024 * 1024


class ConfigError(ValueError):
    """The operator's configuration cannot be used; the message names the field and the limit."""


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must start with http:// or https:// and name a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must have no user, password, query or fragment")
    return value.rstrip("/")


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[!-~][ -~]{0,199}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[ -~]{0,1024}$")]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class UpstreamConfig(_Checked):
    """One provider. Its key comes from one of `api_key`, `api_key_env` and `api_key_file`, or there
    is none. `provider` and `region` say who sells the models there and where they run: what they
    cost is asked for that.
    """

    name: Name
    provider: Name | None = None
    region: Name | None = None
    base_url: Annotated[str, AfterValidator(_base_url)]
    api_key: SecretStr | None = None
    api_key_env: Annotated[str, Field(min_length=1)] | None = None
    api_key_file: Path | None = None
    key_header: HeaderName = "Authorization"
    headers: dict[HeaderName, HeaderValue] = {}
    connections_max: int = Field(default=1000, ge=1, le=10_000)
    connect_timeout_s: float = Field(default=CONNECT_TIMEOUT_S, ge=0.05, le=60.0)
    first_byte_timeout_s: float = Field(default=120.0, ge=0.05, le=3600.0)
    silence_timeout_s: float = Field(default=60.0, ge=0.05, le=3600.0)
    answer_timeout_s: float = Field(default=3600.0, ge=0.05, le=86_400.0)
    retries: int = Field(default=1, ge=0, le=5)
    output_limit_field: Literal["max_completion_tokens", "max_tokens", ""] = "max_completion_tokens"
    rest_after_failures: int = Field(default=3, ge=1, le=1000)
    rest_s: float = Field(default=10.0, ge=0.05, le=3600.0)

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if self.region is not None and self.provider is None:
            raise ValueError("region needs a provider, whose region it is")
        if self.silence_timeout_s > self.first_byte_timeout_s:
            raise ValueError("silence_timeout_s must be at most first_byte_timeout_s")
        given = [self.api_key, self.api_key_env, self.api_key_file]
        if sum(one is not None for one in given) > 1:
            raise ValueError("give one of api_key, api_key_env and api_key_file")
        self.secret()
        return self

    def secret(self) -> str | None:
        """The key. Raises ValueError when it cannot be read or cannot stand in a header."""
        key = self._given_secret()
        if key is None or (key and key.isascii() and key.isprintable() and key == key.strip()):
            return key
        raise ValueError("the key must be printable ASCII without spaces at its ends")

    def _given_secret(self) -> str | None:
        if self.api_key_env is not None:
            if not (value := os.environ.get(self.api_key_env)):
                raise ValueError(f"the variable {self.api_key_env} is not set")
            return value
        if self.api_key_file is not None:
            try:
                return self.api_key_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"the key file cannot be read: {type(error).__name__}") from error
        return None if self.api_key is None else self.api_key.get_secret_value()


class TargetConfig(_Checked):
    """Where a route may send: an upstream, the model's name there, and the name it is priced by."""

    upstream: Name
    model: ModelName | None = None
    price_as: ModelName | None = None


class RouteConfig(_Checked):
    """Models by name or pattern (`*`, `?`), and the targets in the order that they are tried in."""

    models: Annotated[list[ModelName], Field(min_length=1, max_length=1000)]
    targets: Annotated[list[TargetConfig], Field(min_length=1, max_length=16)]
    power_level: Name | None = None


class RoutingConfig(_Checked):
    """All upstreams and routes; the first route with a matching pattern decides."""

    upstreams: Annotated[list[UpstreamConfig], Field(min_length=1, max_length=100)]
    routes: Annotated[list[RouteConfig], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [one.name for one in self.upstreams]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two upstreams have the name {name}")
        for place, route in enumerate(self.routes):
            seen = [(target.upstream, target.model) for target in route.targets]
            for target in route.targets:
                if target.upstream not in names:
                    raise ValueError(
                        f"routes.{place}: there is no upstream {target.upstream}, only "
                        f"{', '.join(names)}"
                    )
                if seen.count((target.upstream, target.model)) > 1:
                    raise ValueError(f"routes.{place}: {target.upstream} stands twice")
        return self


def load_routing(settings: ApiSettings) -> RoutingConfig | None:
    """What the settings say about upstreams, or None when they say nothing. Raises ConfigError."""
    if settings.upstreams_file is not None:
        if settings.upstream_base_url is not None:
            raise ConfigError(
                "set TAXIMETER_UPSTREAMS_FILE or TAXIMETER_UPSTREAM_BASE_URL, not both"
            )
        return _checked(_read(settings.upstreams_file), str(settings.upstreams_file))
    url = settings.upstream_url
    if url is None:
        return None
    if settings.upstream_api_key is not None and not settings.upstream_api_key.get_secret_value():
        raise ConfigError(
            "TAXIMETER_UPSTREAM_API_KEY is empty: give it the key of "
            f"{_name_of(url)}, or unset it for a provider that asks for none"
        )
    name = settings.upstream_name or _name_of(url)
    upstream = {
        "name": name,
        "provider": settings.upstream_provider,
        "region": settings.upstream_region,
        "base_url": url,
        "api_key": settings.upstream_api_key,
        "connections_max": settings.upstream_connections_max,
        "connect_timeout_s": CONNECT_TIMEOUT_S,
        "first_byte_timeout_s": settings.upstream_timeout_s,
        "silence_timeout_s": settings.upstream_timeout_s,
    }
    routes = [{"models": ["*"], "targets": [{"upstream": name}]}]
    return _checked({"upstreams": [upstream], "routes": routes}, "TAXIMETER_UPSTREAM_*")


def check_providers(config: RoutingConfig | None, pricer: Pricer) -> None:
    """Raises ConfigError for an upstream whose provider no price list has, with the nearest ones:
    its models would all be refused.
    """
    for upstream in () if config is None else config.upstreams:
        if upstream.provider is None:
            continue
        host = host_of(upstream.provider)
        if not pricer.knows_host(host):
            near = pricer.hosts_near(host)
            known = f"; known are {', '.join(near)}" if near else ""
            raise ConfigError(
                f"upstream {upstream.name}: provider {upstream.provider} is in no price list{known}"
            )


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ConfigError(f"{path}: is larger than {FILE_BYTES_MAX} bytes")
        text = content.decode()
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"{path}: is not valid {kind}: {error}") from error


def _checked(document: Any, source: str) -> RoutingConfig:
    try:
        return RoutingConfig.model_validate(document)
    except ValidationError as error:
        lines = []
        for one in error.errors(include_input=False, include_url=False):
            place = ".".join(str(part) for part in one["loc"])
            message = one["msg"].removeprefix("Value error, ")
            lines.append(f"{source}: {place}: {message}" if place else f"{source}: {message}")
        raise ConfigError("\n".join(lines)) from error


def _name_of(url: str) -> str:
    """The host, as a name: what it has besides the characters of a name becomes a dash."""
    if url == SIMULATOR_URL:
        return "simulated"
    host = urlsplit(url).hostname or "upstream"
    return "".join(letter if letter.isalnum() or letter in "._:-" else "-" for letter in host)[:64]
