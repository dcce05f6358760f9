"""Reads the settings of the sidecar, from environment variables with the prefix TAXIMETER_."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from taximeter.api.settings.metering import LogRequests, MeteringSettings, is_loopback
from taximeter.api.settings.prices import PriceSettings
from taximeter.meter.sidecar import ApiKeys
from taximeter.meter.sidecar.forward_auth import ForwardAuthPolicy

# A socket address holds 108 bytes with the zero at its end.
SOCKET_PATH_BYTES_MAX = 107


class SidecarSettings(PriceSettings, MeteringSettings):
    """What an operator can decide about the sidecar. Every number has a bound."""

    sidecar_host: str = Field(
        default="127.0.0.1", description="Address that the sidecar listens on."
    )
    sidecar_port: int = Field(
        default=8086, ge=0, le=65535, description="Port that the sidecar listens on."
    )
    sidecar_socket: Path | None = Field(
        default=None, description="Unix socket to listen on, instead of host and port."
    )
    sidecar_socket_mode: str = Field(
        default="600",
        pattern=r"^[0-7]{3}$",
        description="Permissions of the Unix socket, in octal: who may spend without a key.",
    )
    sidecar_processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that share its connections. Each has connections to the stores, "
        "limits and a credit line of its own. One that ends is started again.",
    )
    sidecar_metrics_host: str = Field(
        default="127.0.0.1", description="Address of SIDECAR_METRICS_PORT."
    )
    sidecar_metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="Port of `/metrics` alone; the second of several processes has the next one, "
        "and so on. Several processes tell their figures there and nowhere else.",
    )
    sidecar_keys: str | None = Field(
        default=None,
        description="SHA-256 digests (hex) of keys that may do everything, comma separated.",
    )
    sidecar_require_keys: bool = Field(
        default=False,
        description="Ask for a key on loopback and on a Unix socket too. Elsewhere one is always "
        "asked for: one of SIDECAR_KEYS or, with DATABASE_URL, of an organization.",
    )
    sidecar_drain_s: float = Field(
        default=5.0,
        ge=0.0,
        le=3600.0,
        description="How long holds can still be ended after SIGTERM, while no credits are taken.",
    )
    sidecar_grace_s: float = Field(
        default=10.0,
        ge=1.0,
        le=600.0,
        description="How long after that running requests and commits may finish.",
    )
    sidecar_log_requests: LogRequests = Field(
        default="refused",
        description="Which requests have a line in the log: `all`, `refused` (status 400 and "
        "above) or `none`. A line for each costs more than the request's own work.",
    )
    sidecar_body_bytes_max: int = Field(
        default=1_048_576, ge=1024, le=10**8, description="Largest body of a request."
    )

    forward_auth_hold_s: float = Field(
        default=300.0,
        ge=1.0,
        le=86_400.0,
        description="Life of a hold that a gateway takes by forward auth and nobody settles.",
    )
    forward_auth_repeats: Literal["refuse", "pass"] = Field(
        default="refuse",
        description="What forward auth does with a request id that it let through before: refuse "
        "it, or let it through again for the one charge.",
    )

    @field_validator("sidecar_keys")
    @classmethod
    def _keys_are_digests(cls, text: str | None) -> str | None:
        if text is not None:
            ApiKeys.parse(text)
        return text

    @field_validator("sidecar_socket")
    @classmethod
    def _path_fits(cls, path: Path | None) -> Path | None:
        if path is not None and len(str(path.absolute()).encode()) > SOCKET_PATH_BYTES_MAX:
            raise ValueError(f"must be a path of at most {SOCKET_PATH_BYTES_MAX} bytes")
        return path

    @model_validator(mode="after")
    def _strangers_need_a_key(self) -> Self:
        if self.needs_keys and self.sidecar_keys is None and not self.has_database:
            raise ValueError(
                "set TAXIMETER_SIDECAR_KEYS, or TAXIMETER_DATABASE_URL for the keys of "
                "organizations, or listen on 127.0.0.1 or on a Unix socket: without keys, "
                "everybody who can reach this address could spend"
            )
        return self

    @model_validator(mode="after")
    def _metrics_ports_fit(self) -> Self:
        first = self.sidecar_metrics_port
        if first is not None and (last := first + self.sidecar_processes - 1) > 65_535:
            raise ValueError(
                f"TAXIMETER_SIDECAR_METRICS_PORT: the last process would have port {last};"
                " at most 65535"
            )
        return self

    @property
    def needs_keys(self) -> bool:
        """Whether a caller is asked for a key."""
        is_local = self.sidecar_socket is not None or self.is_loopback
        return self.sidecar_keys is not None or self.sidecar_require_keys or not is_local

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the TCP address."""
        return is_loopback(self.sidecar_host)

    @property
    def keys(self) -> ApiKeys | None:
        """The keys of these settings, if there are any."""
        return None if self.sidecar_keys is None else ApiKeys.parse(self.sidecar_keys)

    @property
    def forward_auth(self) -> ForwardAuthPolicy:
        """How gateways are answered."""
        return ForwardAuthPolicy(self.forward_auth_hold_s, self.forward_auth_repeats == "pass")

    @property
    def has_database(self) -> bool:
        """Whether a database was named: the default of the other processes is not guessed here."""
        return "database_url" in self.model_fields_set
