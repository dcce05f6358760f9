"""Reads the settings of the settler, from environment variables with the prefix TAXIMETER_."""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from taximeter.meter.places.seeds import read_seeds
from taximeter.meter.settings import Durability
from taximeter.meter.wire.limits import check_org_id
from taximeter.settler.books.addresses import check_address
from taximeter.settler.books.logs import LogFormat

Seconds = Annotated[float, Field(gt=0, le=86_400)]

REQUEST_IDS_KEPT_MIN_S: Final = 2_592_000.0
"""Redis answers for an id for ten minutes, a stream and its hold end within a day, and a server
that was away for longer than this is not one that anybody waits for.
"""

ORGANIZATIONS_MAX: Final = 50
"""Most organisations that /metrics names."""

CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
"""The variable by which systemd names the folder of what LoadCredential gives a service."""


def credential(name: str) -> str | None:
    """What a file of this name holds in the folder of credentials, without blanks at its ends; None
    without a folder or such a file. Raises OSError when it cannot be read, ValueError for a file
    that is no text.
    """
    folder = os.environ.get(CREDENTIALS)
    path = Path(folder, name) if folder else None
    if path is None or not path.is_file():
        return None
    return path.read_text(encoding="utf-8").strip()


class Credentials(SecretsSettingsSource):
    """Files of a folder, named like variables in lower case. An empty one says nothing: a unit
    cannot leave out a credential that it loads.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value, its name, and whether it is JSON."""
        value, key, is_complex = super().get_field_value(field, field_name)
        return value or None, key, is_complex


class StoreSettings(BaseSettings):
    """Where the two stores are. Shared by every process that opens them itself."""

    model_config = SettingsConfigDict(
        env_prefix="TAXIMETER_", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables first; then files of the folder of credentials, named like variables in lower
        case, so that secrets need not stand in the environment.
        """
        folder = os.environ.get(CREDENTIALS)
        if not folder or not Path(folder).is_dir():
            return (init_settings, env_settings)
        files = Credentials(settings_cls, secrets_dir=folder)
        return (init_settings, env_settings, files)

    database_url: str = Field(
        default="postgresql://localhost/taximeter",
        description="Postgres, the book of record, for a "
        "user who owns nothing; `taximeter migrate` logs in by TAXIMETER_MIGRATE_DATABASE_URL. "
        "A primary and its standbys, as in `postgresql://USER:PASSWORD@a:5432,b:5432/DATABASE`: "
        "the one that takes writes is found, also after another one was promoted.",
    )
    database_durability: Literal["none", "on"] = Field(
        default="on",
        description="`on`: a Postgres with fsync or full_page_writes off is refused, since a crash "
        "of its machine could take what it has confirmed. `none`: it is only warned about. Commits "
        "of ours wait for the disk in any case, whatever synchronous_commit is by default.",
    )
    redis_url: str = Field(
        default="redis://localhost:6379/0",
        description="Redis or Valkey with the live balances; must not evict (noeviction) and "
        "should keep an AOF. A server, any nodes of a cluster or the Sentinels of a primary, as in "
        "`redis://a:7000,b:7000`; `?service_name=` where Sentinel watches several, "
        "`&sentinel_username=` and `&sentinel_password=` where the Sentinels have a login of their "
        "own.",
    )
    durability: Durability = Field(
        default="everysec",
        description="What Redis must do at least before credits are kept on it: `none`, `everysec` "
        "(an AOF) or `always` (an AOF that is synced before every answer). A server that does less "
        "is refused.",
    )
    key_prefix: str = Field(
        default="tm",
        pattern=r"^[A-Za-z0-9_-]{1,32}$",
        description="First part of every Redis key's hash tag, so that several installations can "
        "share a server.",
    )
    installation: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="A name for this installation, `production` say. The first settler writes it "
        "into the database; one with another name does not start on that, and an API or a sidecar "
        "with another name takes no credits, so that a copy in a test system is found out before "
        "it does anything.",
    )
    shards: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="How many shards a fresh system gets (1 when unset). An existing system keeps "
        "its number: "
        "any other value here is refused.",
    )
    database_pool_max: int = Field(
        default=8, ge=4, le=100, description="Most Postgres connections."
    )
    database_timeout_s: Seconds = Field(
        default=60.0,
        description="Longest wait for one Postgres command; 15.0 by default in API and sidecar, "
        "where somebody waits for the answer.",
    )
    redis_timeout_s: Seconds = Field(
        default=5.0, description="Longest wait for one Redis command, with the time to connect."
    )

    archive_url: str | None = Field(
        default=None,
        description="Where `taximeter archive` keeps old months of usage, and API and `taximeter "
        "check` read them: a folder, or `s3://bucket/prefix` with credentials in the variables of "
        "AWS (and AWS_ENDPOINT_URL for other S3). Needs the extra `archive`.",
    )
    export_url: str | None = Field(
        default=None,
        description="Where the settler writes an export of each day, and `taximeter export` and "
        "`taximeter check --exports` look: a folder, or `s3://bucket/prefix` as ARCHIVE_URL. Off "
        "when unset. Parquet and S3 need the extra `exports`.",
    )
    export_credit_price: Decimal | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        max_digits=12,
        decimal_places=6,
        description="What a credit is worth, in EXPORT_CURRENCY, with at most six decimals: the "
        "kind `focus` says it of what is used. Nothing is said in money when unset, and that kind "
        "is refused.",
    )
    export_currency: str = Field(
        default="USD", pattern=r"^[A-Z]{3}$", description="That currency, by ISO 4217."
    )
    export_provider: str = Field(
        default="Taximeter",
        min_length=1,
        max_length=255,
        description="Who sells, in the kind `focus`: ProviderName, PublisherName and "
        "InvoiceIssuerName.",
    )
    log_format: LogFormat = Field(
        default="auto",
        description="`json`: an object a line; `text`: for people; `auto`: text on a terminal.",
    )

    tracing: bool = Field(
        default=False,
        description="Make spans of requests, holds, charges and settling, and send them by OTLP "
        "(http/protobuf) to OTEL_EXPORTER_OTLP_ENDPOINT; the other variables of OpenTelemetry "
        "count as well ([tracing](tracing.md)). Needs the extra `otel`.",
    )
    tracing_costs: bool = Field(
        default=False, description="Spans say how many credits were held and charged."
    )

    @field_validator("tracing")
    @classmethod
    def _spans_can_be_sent(cls, tracing: bool) -> bool:
        if tracing:
            check_tracing(os.environ)
        return tracing

    @field_validator("archive_url")
    @classmethod
    def _archive_can_be_used(cls, url: str | None) -> str | None:
        return url if url is None else check_archive_url(url)

    @field_validator("export_url")
    @classmethod
    def _exports_can_be_used(cls, url: str | None) -> str | None:
        return url if url is None else check_export_url(url)

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, url: str) -> str:
        return check_address(url)

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        return check_redis_url(url)


def check_archive_url(url: str) -> str:
    """Return the folder or S3 URL, or raise ValueError saying what is wrong with it, or missing:
    credentials are no part of what is printed and logged.
    """
    if find_spec("pyarrow") is None:
        raise ValueError("needs the package pyarrow: pip install 'PATH[archive]'")
    return _check_place(url)


def check_export_url(url: str) -> str:
    """The same of exports, which need no package for CSV in a folder."""
    if url.startswith("s3://") and find_spec("pyarrow") is None:
        raise ValueError("needs the package pyarrow for S3: pip install 'PATH[exports]'")
    return _check_place(url)


def _check_place(url: str) -> str:
    if "://" not in url:
        if not url.strip():
            raise ValueError("must be a folder or s3://bucket/prefix")
        return url
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be a folder or s3://bucket/prefix")
    if "@" in parts.netloc:
        raise ValueError(
            "must not hold credentials: they come as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return url


def check_parquet() -> None:
    """Raise ValueError where Parquet cannot be written."""
    if find_spec("pyarrow") is None:
        raise ValueError(
            "TAXIMETER_EXPORT_FORMATS: parquet needs the package pyarrow: pip install "
            "'PATH[exports]'; csv needs none"
        )


def check_tracing(environment: Mapping[str, str]) -> None:
    """Raise ValueError where spans could not be sent: a package is missing, or OpenTelemetry's own
    variables ask for what is not served.
    """
    try:
        version("opentelemetry-sdk")
        version("opentelemetry-exporter-otlp-proto-http")
    except PackageNotFoundError as error:
        raise ValueError(f"needs the package {error.name}: pip install 'PATH[otel]'") from None
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (given := environment.get(variable, "")) not in ("", "http/protobuf"):
            raise ValueError(f"{variable} must be http/protobuf, not {given[:32]!r}")
    if (given := environment.get("OTEL_TRACES_EXPORTER", "")) not in ("", "otlp", "none"):
        raise ValueError(f"OTEL_TRACES_EXPORTER must be otlp or none, not {given[:32]!r}")


def check_redis_url(url: str) -> str:
    """Return `url`, or raise ValueError saying what is wrong with it."""
    read_seeds(url)
    return url


class NoticeSettings(StoreSettings):
    """What API and settler need to send notices."""

    notice_keys: SecretStr | None = Field(
        default=None,
        description="What addresses and secrets of receivers are encrypted with in Postgres: 32 "
        "random bytes in URL-safe base64 (`openssl rand -base64 32 | tr +/ -_`), or several such "
        "with commas between; the first encrypts. Without it, or with that of another "
        "installation, nothing is sent: give a restored copy another one.",
    )
    notices_anywhere: bool = Field(
        default=False,
        description="Let webhooks go to inner addresses and over plain HTTP: for development "
        "alone.",
    )

    smtp_url: SecretStr | None = Field(
        default=None,
        description="The server that notices are mailed by: `smtps://user:password@host`, or "
        "`smtp://user:password@host:587`, which uses STARTTLS and refuses a server without it "
        "unless it is on this machine. No e-mail when unset.",
    )
    smtp_from: str = Field(
        default="taximeter@localhost.localdomain",
        pattern=r"^[!-;=?-~]{1,64}@[A-Za-z0-9.-]{1,253}$",
        description="The address that these come from.",
    )

    @field_validator("smtp_url")
    @classmethod
    def _is_smtp(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url.get_secret_value())
            is_one = parts.scheme in ("smtp", "smtps") and bool(parts.hostname)
            is_one = is_one and parts.port != 0 and not parts.path.strip("/")
        except ValueError:
            is_one = False
        if not is_one:
            raise ValueError("must be smtp://host or smtps://host, with a port if it is another")
        return url

    @field_validator("notice_keys")
    @classmethod
    def _are_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is None or not keys.get_secret_value().strip():
            return None
        for key in keys.get_secret_value().split(","):
            try:
                is_key = len(urlsafe_b64decode(key.strip())) == 32
            except ValueError:
                is_key = False
            if not is_key:
                raise ValueError(
                    "must be 32 random bytes in URL-safe base64, or several such with commas "
                    "between: openssl rand -base64 32 | tr +/ -_"
                )
        return keys


class SettlerSettings(NoticeSettings):
    """What the settler does how often and how much at once. Every number has a bound."""

    arq_redis_url: str | None = Field(
        default=None,
        description="Redis of the job scheduler, which may be another server; REDIS_URL when "
        "unset. "
        "Only its schedule is there: losing it loses nothing.",
    )
    arq_queue: str = Field(
        default="taximeter:upkeep",
        pattern=r"^[A-Za-z0-9:_-]{1,64}$",
        description="Name of the job queue in that Redis: of what may be late, such as reports and "
        "the ends of billing periods.",
    )

    settler_host: str = Field(
        default="127.0.0.1", description="Address that the settler's health is served on."
    )
    settler_port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="Port of the settler's `/livez`, `/readyz`, `/api/v1/system/status` and "
        "`/metrics`; nothing is served when unset.",
    )

    metrics_organizations: tuple[str, ...] = Field(
        default=(),
        max_length=ORGANIZATIONS_MAX,
        description="Organisations (a JSON list of ids, at most 50) of which the settler's "
        "`/metrics` tells pool and usage, for the board of one organisation. Nobody when unset: "
        "`/metrics` needs no login, and names nobody else.",
    )

    settle_batch_events: int = Field(
        default=20_000,
        ge=1,
        le=50_000,
        description="Events of one settle transaction, give or take one stream entry (1,000 "
        "events).",
    )
    settle_budget_s: Seconds = Field(
        default=5.0,
        description="A shard's turn to settle ends after this long; others have theirs before its "
        "next.",
    )
    settle_attempts: int = Field(
        default=5, ge=1, le=20, description="Tries of one batch after deadlocks and the like."
    )

    tick_timeout_s: Seconds = Field(
        default=60.0, description="A tick that takes longer is cancelled; the next one takes over."
    )
    move_grace_s: Seconds = Field(
        default=30.0,
        description="A move of credits (transfer, deallocation, closing) that was begun and not "
        "ended for this long is undone: its process has died.",
    )
    upkeep_timeout_s: Seconds = Field(
        default=600.0, description="The same for reconcile and for the daily work."
    )
    shutdown_grace_s: float = Field(
        default=10.0, ge=0.1, le=300.0, description="How long running ticks may finish on SIGTERM."
    )
    partition_months_ahead: int = Field(
        default=3, ge=0, le=120, description="Months of attribution partitions that are made ahead."
    )
    relay_page_accounts: int = Field(
        default=500, ge=1, le=1_000, description="Accounts whose entries are relayed in one step."
    )
    relay_accounts_per_tick: int = Field(
        default=50_000, ge=1, le=1_000_000, description="Most accounts that one relay run looks at."
    )
    sweep_limit: int = Field(
        default=500, ge=1, le=1_000, description="Expired holds ended by one script call."
    )
    sweep_calls_per_tick: int = Field(
        default=20, ge=1, le=1_000, description="Most sweep calls of a tick and shard."
    )
    outcome_window_s: float = Field(
        default=300.0,
        ge=1.0,
        le=86_400.0,
        description="Redis remembers what became of a request for one to two windows; a repeat "
        "that comes "
        "later is caught by the ledger.",
    )

    event_retention_s: float = Field(
        default=3_600.0,
        ge=0.0,
        le=604_800.0,
        description="Settled events stay in the stream this long, so that a Postgres restored from "
        "an older "
        "backup can settle them again.",
    )
    event_retention_max: int = Field(
        default=500_000,
        ge=0,
        le=100_000_000,
        description="At most this many settled events stay, whatever their age: the bound on "
        "memory.",
    )

    unsettled_events_max: int = Field(
        default=2_000_000,
        ge=1,
        le=1_000_000_000,
        description="With this many events of a shard waiting for Postgres, no credit is taken "
        "(503, BACKLOG) until they are settled; open holds can still be committed. An event takes "
        "100 to 300 bytes of Redis memory.",
    )

    open_holds_max: int = Field(
        default=1_000,
        ge=1,
        le=1_000_000,
        description="Most holds that one account may have open at a time; the next one is refused "
        "(429, TOO_MANY_HOLDS) until one of them ends. Raise it where one user stands for a whole "
        "service with more requests in progress than this.",
    )

    idempotency_retention_s: float = Field(
        default=604_800.0,
        ge=3_600.0,
        le=31_536_000.0,
        description="How long the answer of a request with an Idempotency-Key is kept for its "
        "repetitions.",
    )
    request_id_retention_s: float = Field(
        default=34_560_000.0,
        ge=0.0,
        le=315_360_000.0,
        description="How long the ledger remembers at least which request ids are charged, and "
        "refuses them a second charge (400 days, and up to twice as long); 0: for ever, else 30 "
        "days or more, and no less than IDEMPOTENCY_RETENTION_S. An id takes about 220 bytes.",
    )

    archive_keep_months: int | None = Field(
        default=None,
        ge=1,
        le=1_200,
        description="The settler archives months of usage at ARCHIVE_URL by itself, so that this "
        "many whole ones stay in Postgres beside this one; off when unset. It needs "
        "ARCHIVE_DATABASE_URL. One settler at a time, one month at a time.",
    )
    archive_hours: str = Field(
        default="0-24",
        pattern=r"^(\d|1\d|2[0-3])-(\d|1\d|2[0-4])$",
        description="Hours of the day, in UTC, in which archiving a month may begin: `1-5`, or "
        "`22-4` over midnight. What has begun is not cut off.",
    )
    archive_database_url: str | None = Field(
        default=None,
        description="Postgres as the owner of the tables, for the settler that archives by itself; "
        "its other work goes on by DATABASE_URL, which owns nothing.",
    )

    export_kinds: tuple[Literal["usage", "requests", "ledger", "audit", "focus"], ...] = Field(
        default=("usage", "requests", "ledger", "audit"),
        min_length=1,
        description="What is exported at EXPORT_URL, as a JSON list: `usage`, `requests`, "
        "`ledger`, `audit`, `focus` (docs/exports.md); the last one needs EXPORT_CREDIT_PRICE.",
    )
    export_formats: tuple[Literal["csv", "parquet"], ...] = Field(
        default=("parquet",),
        min_length=1,
        description="As what, as a JSON list: `csv`, `parquet`.",
    )
    export_watch_days: int = Field(
        default=31,
        ge=1,
        le=366,
        description="So many days back the settler looks whether an exported day has come to "
        "something else since, by a late charge or a deletion, and writes it again.",
    )

    check_every_s: float = Field(
        default=60.0,
        ge=0,
        le=86_400.0,
        allow_inf_nan=False,
        description="How often a settler seals and proves the books, in seconds; 0: it does not. "
        "One settler at a time, on three connections of its own.",
    )
    check_reread_s: float = Field(
        default=1.0,
        ge=0,
        le=600.0,
        allow_inf_nan=False,
        description="How long each such look reads sealed days again, in seconds: one day at "
        "least.",
    )
    reconcile_holds_limit: int = Field(
        default=5_000,
        ge=0,
        le=100_000,
        description="With more open holds than this in a shard, holds are compared by two readings "
        "and not at a cut.",
    )
    hold_grace_s: Seconds = Field(
        default=60.0,
        description="How long past its deadline an open hold may be before check objects.",
    )
    entry_age_max_s: Seconds = Field(
        default=60.0, description="How old an entry may be that has not reached its loaded account."
    )
    settlement_alarm_s: Seconds = Field(
        default=60.0,
        description="How old the oldest charge that waits for Postgres may be before somebody is "
        "told (`system.settlement_stuck`).",
    )
    notice_retention_s: float = Field(
        default=2_592_000.0,
        ge=604_800.0,
        le=31_536_000.0,
        description="How long notices, and what became of them, are kept (30 days): as long they "
        "can be sent again.",
    )
    loss_alarm_s: float = Field(
        default=604_800.0,
        ge=0.0,
        le=31_536_000.0,
        description="A loss fails check for this long after it was found; older ones are figures "
        "only.",
    )

    @model_validator(mode="after")
    def _has_what_archiving_needs(self) -> SettlerSettings:
        if self.archive_keep_months is not None:
            for name in ("archive_url", "archive_database_url"):
                if getattr(self, name) is None:
                    raise ValueError(
                        f"TAXIMETER_ARCHIVE_KEEP_MONTHS needs TAXIMETER_{name.upper()}"
                    )
        return self

    @model_validator(mode="after")
    def _exports_have_what_they_need(self) -> SettlerSettings:
        if "focus" in self.export_kinds and self.export_credit_price is None:
            raise ValueError("the kind focus of TAXIMETER_EXPORT_KINDS needs "
                             "TAXIMETER_EXPORT_CREDIT_PRICE")  # fmt: skip
        if self.export_url is not None and "parquet" in self.export_formats:
            check_parquet()
        return self

    @field_validator("metrics_organizations")
    @classmethod
    def _are_organizations(cls, named: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_org_id(org_id) for org_id in named)

    @field_validator("request_id_retention_s")
    @classmethod
    def _outlives_repetitions(cls, kept_s: float, info: ValidationInfo) -> float:
        if 0 < kept_s < REQUEST_IDS_KEPT_MIN_S:
            raise ValueError(f"must be 0, or at least {REQUEST_IDS_KEPT_MIN_S:.0f} (30 days)")
        if 0 < kept_s < info.data.get("idempotency_retention_s", 0.0):
            raise ValueError("must not be less than TAXIMETER_IDEMPOTENCY_RETENTION_S")
        return kept_s

    @field_validator("arq_redis_url")
    @classmethod
    def _arq_is_redis(cls, url: str | None) -> str | None:
        return url if url is None else check_redis_url(url)
