"""Settings of the settler, from environment variables with the prefix TAXIMETER_."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from taximeter.meter.places.seeds import read_seeds
from taximeter.meter.settings import Durability
from taximeter.settler.books.logs import LogFormat

Seconds = Annotated[float, Field(gt=0, le=86_400)]

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
        "user who owns nothing; `taximeter migrate` logs in by TAXIMETER_MIGRATE_DATABASE_URL.",
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
        "`redis://a:7000,b:7000`; `?service_name=` where Sentinel watches several.",
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

    log_format: LogFormat = Field(
        default="auto",
        description="`json`: an object a line; `text`: for people; `auto`: text on a terminal.",
    )

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, url: str) -> str:
        if not url.startswith(("postgres://", "postgresql://")):
            raise ValueError("must start with postgresql://")
        return url

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        return check_redis_url(url)


def check_redis_url(url: str) -> str:
    """Return `url`, or raise ValueError saying what is wrong with it."""
    read_seeds(url)
    return url


class SettlerSettings(StoreSettings):
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
        description="Port of the settler's `/livez`, `/readyz` and `/api/v1/system/status`; "
        "nothing is served when unset.",
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
    loss_alarm_s: float = Field(
        default=604_800.0,
        ge=0.0,
        le=31_536_000.0,
        description="A loss fails check for this long after it was found; older ones are figures "
        "only.",
    )

    @field_validator("arq_redis_url")
    @classmethod
    def _arq_is_redis(cls, url: str | None) -> str | None:
        return url if url is None else check_redis_url(url)
