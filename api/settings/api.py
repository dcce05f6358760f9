"""Reads the settings of the API, from environment variables with the prefix TAXIMETER_."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from taximeter.api.settings.metering import LogRequests, MeteringSettings, is_loopback
from taximeter.api.settings.oidc import ASYMMETRIC_ALGORITHMS, ClaimPaths, is_safe_url
from taximeter.api.settings.prices import PriceSettings
from taximeter.settler.books.settings import NoticeSettings

SIMULATOR_URL = "http://127.0.0.1:8085/v1"


class ApiSettings(PriceSettings, MeteringSettings, NoticeSettings):
    """Everything that an operator can decide about the API. Every number has a bound."""

    host: str = Field(default="127.0.0.1", description="Address that the API listens on.")
    port: int = Field(default=8084, ge=0, le=65535, description="Port that the API listens on.")
    metrics_host: str = Field(
        default="127.0.0.1", description="Address that the API's `/metrics` is served on."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="Port of the API's `/metrics`, for Prometheus; nothing is served when unset.",
    )
    shutdown_grace_s: float = Field(
        default=20.0,
        ge=0.0,
        le=600.0,
        description="How long the API waits for running requests and charges when it stops.",
    )
    log_requests: LogRequests = Field(
        default="all",
        description="Which requests have a line in the log: `all`, `refused` (status 400 and "
        "above) or `none`.",
    )
    admin_body_bytes_max: int = Field(
        default=65_536, ge=1024, le=10**7, description="Largest body of an admin request."
    )
    llm_body_bytes_max: int = Field(
        default=8_388_608, ge=1024, le=10**8, description="Largest body of an LLM request."
    )

    llm_body_values_max: int = Field(
        default=100_000,
        ge=100,
        le=10_000_000,
        description="Most values in the body of an LLM request, where a list or an object counts "
        "as five: 10,000 take about two milliseconds, in which nobody else is served.",
    )
    llm_bodies_bytes_max: int = Field(
        default=67_108_864,
        ge=1024,
        le=10**10,
        description="Bodies of LLM requests that this process keeps at a time, in bytes; each "
        "takes about five times as much memory until its upstream answers. At least two of the "
        "largest fit. The last quarter is for organisations with little of it. A caller may have "
        "as much as is free for others (429).",
    )
    llm_requests_max: int = Field(
        default=1000,
        ge=4,
        le=100_000,
        description="LLM requests in progress in this process. A caller may have as many as are "
        "free for others, an organisation three times as many (429).",
    )

    # Sessions
    dev_mode: bool = Field(
        default=False,
        description="Local development: sessions come from `taximeter token` and a local key.",
    )
    dev_mode_beyond_loopback: bool = Field(
        default=False,
        description="Let DEV_MODE listen on an address that other machines may reach, such as "
        "inside of a container whose port is published on loopback alone. Whoever has the local "
        "key, which lies in DATA_DIR, is anybody there.",
    )
    data_dir: Path = Field(
        default=Path(".data"), description="Folder of what dev mode keeps, such as its key."
    )
    oidc_issuer: str | None = Field(
        default=None, description="Issuer of session tokens, exactly as in their `iss`."
    )
    oidc_audience: str | None = Field(
        default=None, description="What the `aud` of session tokens must hold."
    )
    oidc_jwks_url: str | None = Field(
        default=None,
        description="Where the issuer's keys are; by default its discovery document says.",
    )
    oidc_algorithms: tuple[str, ...] = Field(
        default=("RS256",), description="Signatures that are accepted; asymmetric ones only."
    )
    oidc_keys_ttl_s: float = Field(
        default=300.0, ge=1.0, le=86_400.0, description="How long the issuer's keys are kept."
    )
    oidc_keys_interval_s: float = Field(
        default=10.0,
        ge=0.1,
        le=3600.0,
        description="Shortest time between two looks for keys, whatever tokens name.",
    )
    oidc_user_claim: str = Field(
        default="sub", min_length=1, description="Claim with the user's id. Dots step into objects."
    )
    oidc_email_claim: str = Field(default="email", min_length=1, description="Claim of the email.")
    oidc_email_verified_claim: str = Field(
        default="email_verified",
        min_length=1,
        description="Claim that says whether the address is the user's: true, 1, or either as "
        "text. Without it no address is noted or believed.",
    )
    oidc_name_claim: str = Field(
        default="name", min_length=1, description="Claim with the name to show."
    )
    oidc_roles_claim: str = Field(
        default="realm_access.roles",
        min_length=1,
        description="Claim with the roles: a list, or text with spaces between.",
    )
    oidc_required_claims: dict[str, str | tuple[str, ...]] = Field(
        default={},
        description="Claims without which no token is accepted, and the value of each, or a list "
        'of which it holds one, as JSON: `{"hd": "example.com"}`. Dots step into objects.',
    )
    oidc_id_tokens: bool = Field(
        default=False,
        description="Accept ID tokens too, whose `aud` is the id of the client that asked for "
        "them: for identity providers whose access tokens are no JWTs, such as Google.",
    )
    oidc_only_access_tokens: bool = Field(
        default=False,
        description="Accept only tokens whose header has the type `at+jwt` (RFC 9068), which "
        "Keycloak does not write. ID tokens that can be told apart are refused anyway.",
    )
    console_url: str | None = Field(
        default=None,
        description="Where browsers find this API, such as `https://credits.example.com`: people "
        "sign in at its `/console`. The identity provider must know "
        "`<CONSOLE_URL>/console/session/back` as a redirect URI, and "
        "`<CONSOLE_URL>/console/signed-out` as one after signing out.",
    )
    console_session_s: int = Field(
        default=43_200,
        ge=60,
        le=2_592_000,
        description="How long somebody stays signed in at the console at most. The identity "
        "provider may end it sooner: it is asked again whenever a token ends.",
    )
    oidc_client_id: str | None = Field(
        default=None,
        min_length=1,
        description="The console's client at the identity provider. Needs CONSOLE_URL.",
    )
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="Its secret; none for a public client. PKCE is used anyway."
    )
    oidc_scopes: str = Field(
        default="openid email profile",
        pattern=r"^(\S+ )*openid( \S+)*$",
        description="What the console's client asks for. Some providers give a refresh token only "
        "with `offline_access`; without one a session ends with its first token.",
    )
    oidc_sign_in_parameters: dict[str, str] = Field(
        default={},
        description="More of the request to sign in, as JSON, such as "
        '`{"audience": "https://api.example.com"}` for Auth0 or `resource` for others.',
    )
    admin_role: str = Field(
        default="system_admin",
        min_length=1,
        description="Role that makes a caller a system admin.",
    )
    members_role: str | None = Field(
        default=None,
        min_length=1,
        description="Role of the identity provider whose holders add users to organisations that "
        "they administer without asking them. By default only system admins do, and everybody "
        "else is invited.",
    )
    membership_cache_s: float = Field(
        default=2.0,
        ge=0.0,
        le=60.0,
        description="How long the LLM route trusts what it has read about a user's memberships.",
    )

    # Purchases
    purchases_by_org_admins: bool = Field(
        default=False,
        description="Whether an organisation's own admin may add credits to its pool without a "
        "payment that is verified. For installations in which nobody pays: who may, can add any "
        "number.",
    )

    # Usage
    usage_wait_s: float = Field(
        default=1.5,
        ge=0.05,
        le=30.0,
        description="Answers about usage include what was charged before they were asked for; one "
        "that would take longer than this to settle says as of when it is.",
    )

    reports_database_url: str | None = Field(
        default=None,
        description="A replica of Postgres that usage, single charges, histories, invoices, the "
        "audit log and the system's dashboard are read from. It is used when it has all that the "
        "primary had when it was asked, or gets it within a second; else the primary is. Headers "
        "say which (`X-Read-From`), and as of when (`X-As-Of`). Balances and decisions are never "
        "read there.",
    )

    # Limits of the admin API
    rate_limits: bool = Field(
        default=True, description="Whether requests of the admin API are counted at all."
    )
    rate_limit_reads_per_minute: int = Field(
        default=100, ge=0, le=100_000, description="GET requests of a caller; 0 is no limit."
    )
    rate_limit_changes_per_minute: int = Field(
        default=60,
        ge=0,
        le=100_000,
        description="Other requests of a caller that are not limited by themselves; 0 is no limit.",
    )
    rate_limit_subscriptions_per_hour: int = Field(
        default=5,
        ge=0,
        le=100_000,
        description="Attempts at a new subscription by a caller who is no system admin (and is "
        "refused); 0 is no limit.",
    )
    rate_limit_admin_subscriptions_per_hour: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="New subscriptions by a system admin, without those that were refused; 0 is no "
        "limit.",
    )
    rate_limit_purchases_per_minute: int = Field(
        default=20, ge=0, le=100_000, description="Purchases by a caller; 0 is no limit."
    )
    rate_limit_allocations_per_minute: int = Field(
        default=30, ge=0, le=100_000, description="Allocations by a caller; 0 is no limit."
    )

    # Upstream
    upstreams_file: Path | None = Field(
        default=None,
        description="TOML or JSON file with several upstreams and routes to them (llm-route.md).",
    )
    upstream_base_url: str | None = Field(
        default=None,
        description="OpenAI-compatible base URL; in dev mode the simulator's by default.",
    )
    upstream_api_key: SecretStr | None = Field(
        default=None, description="Sent upstream as the bearer token."
    )
    upstream_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._:-]{1,64}$",
        description="Name of the provider in answers and usage; by default its host.",
    )
    upstream_provider: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._:-]{1,64}$",
        description="Who sells the models there, as `openai`, `groq` or `azure`: they cost what "
        "they do at that provider (prices.md). By default the name of a model decides.",
    )
    upstream_region: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._:-]{1,64}$",
        description="Where they run, where that makes a difference in price: `eu` of Azure's data "
        "zones, `us-gov-west-1` of Bedrock. Needs UPSTREAM_PROVIDER.",
    )
    upstream_timeout_s: float = Field(
        default=120.0, ge=0.05, le=3600.0, description="Longest silence of the upstream."
    )
    upstream_connections_max: int = Field(
        default=1000, ge=1, le=10_000, description="Most connections to the upstream."
    )

    llm_extra_fields: tuple[str, ...] = Field(
        default=(),
        description="Fields of a body that go upstream although this route does not know them, as "
        'JSON: `["top_k_return"]`. Allow only what costs nothing that usage does not tell.',
    )
    left_streams: Literal["stop", "finish"] = Field(
        default="finish",
        description="What becomes of a stream whose caller has left: `finish` reads to the end and "
        "charges its usage, with what a model reasons and does not show; `stop` lets the upstream "
        "go and charges the prompt and what was delivered, counted.",
    )

    # Charges
    charge_folder: Path | None = Field(
        default=None,
        description="Folder for charges that Redis could not take yet, on a disk that outlives the "
        "process; by default `charges` in DATA_DIR. Processes may share one.",
    )

    # Holds
    hold_ttl_s: float = Field(
        default=60.0,
        ge=0.3,
        le=3600.0,
        description="Life of a hold without a heartbeat; heartbeats come three times as often.",
    )

    @model_validator(mode="after")
    def _sessions_can_be_checked(self) -> Self:
        if self.dev_mode:
            self._dev_mode_is_alone()
            return self
        if not self.oidc_issuer or not self.oidc_audience:
            raise ValueError(
                "set TAXIMETER_OIDC_ISSUER and TAXIMETER_OIDC_AUDIENCE, "
                "or TAXIMETER_DEV_MODE=1 for local development"
            )
        if not set(self.oidc_algorithms) <= ASYMMETRIC_ALGORITHMS or not self.oidc_algorithms:
            raise ValueError(
                f"oidc_algorithms must be some of {', '.join(sorted(ASYMMETRIC_ALGORITHMS))}"
            )
        if self.oidc_id_tokens and self.oidc_only_access_tokens:
            raise ValueError(
                "TAXIMETER_OIDC_ONLY_ACCESS_TOKENS refuses the ID tokens that"
                " TAXIMETER_OIDC_ID_TOKENS lets in: unset one of them"
            )
        for path, values in self.required_claims.items():
            if not path or not values or not all(values):
                raise ValueError(
                    f"oidc_required_claims must name a value for {path or 'each claim'}"
                )
        if (self.oidc_client_id is None) != (self.console_url is None):
            raise ValueError(
                "TAXIMETER_OIDC_CLIENT_ID and TAXIMETER_CONSOLE_URL let people sign in at the"
                " console together: set both or neither"
            )
        self._console_url_is_an_origin()
        for name in ("oidc_issuer", "oidc_jwks_url"):
            url = getattr(self, name)
            if url is not None and not is_safe_url(url):
                raise ValueError(f"{name} must start with https://")
        return self

    def _console_url_is_an_origin(self) -> None:
        if self.console_url is None:
            return
        parts = urlsplit(self.console_url)
        if not is_safe_url(self.console_url) or parts.path not in ("", "/") or not parts.hostname:
            raise ValueError(
                "TAXIMETER_CONSOLE_URL must be https://HOST or https://HOST:PORT, without a path"
            )
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError("TAXIMETER_CONSOLE_URL must have no query, fragment or user")

    def _dev_mode_is_alone(self) -> None:
        given = [name for name in ("oidc_issuer", "oidc_audience", "oidc_jwks_url",
                                   "oidc_client_id", "console_url")
                 if getattr(self, name)]  # fmt: skip
        if given:
            raise ValueError(
                "TAXIMETER_DEV_MODE accepts tokens of a local key, and "
                f"TAXIMETER_{given[0].upper()} is for real sessions: unset one of them"
            )
        if not self.dev_mode_beyond_loopback and not is_loopback(self.host):
            raise ValueError(
                f"TAXIMETER_DEV_MODE listens on loopback alone, and TAXIMETER_HOST is {self.host}; "
                "TAXIMETER_DEV_MODE_BEYOND_LOOPBACK=1 lets it"
            )

    @property
    def charges_folder(self) -> Path:
        """Where charges wait that Redis could not take."""
        return self.charge_folder or self.data_dir / "charges"

    @property
    def console_origin(self) -> str | None:
        """CONSOLE_URL without a slash at its end."""
        return None if self.console_url is None else self.console_url.rstrip("/")

    @property
    def claim_paths(self) -> ClaimPaths:
        """Where tokens say who somebody is."""
        return ClaimPaths(
            user=self.oidc_user_claim,
            email=self.oidc_email_claim,
            email_verified=self.oidc_email_verified_claim,
            name=self.oidc_name_claim,
            roles=self.oidc_roles_claim,
        )

    @property
    def required_claims(self) -> dict[str, tuple[str, ...]]:
        """What each required claim must hold one of."""
        return {
            path: (values,) if isinstance(values, str) else values
            for path, values in self.oidc_required_claims.items()
        }

    @property
    def upstream_url(self) -> str | None:
        """The base URL of a single upstream, or None: only dev mode assumes the simulator."""
        if self.upstreams_file is not None:
            return None
        return self.upstream_base_url or (SIMULATOR_URL if self.dev_mode else None)
