"""Reads the settings of every process that has a Meter, from variables with the prefix
TAXIMETER_.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from taximeter.meter import MeterSettings
from taximeter.meter.credit_line.desk import CreditLines
from taximeter.meter.wire.waits import Wait
from taximeter.settler.books.settings import Seconds, StoreSettings

LogRequests = Literal["all", "refused", "none"]
"""Which requests have a line in the log."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a TCP address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class MeteringSettings(StoreSettings):
    """How long Postgres is waited for, and how far a write must be before it is answered."""

    database_timeout_s: Seconds = Field(
        default=15.0, description="Longest wait of a request for one Postgres command."
    )
    database_wait_s: Seconds = Field(
        default=5.0,
        description="Longest wait of a request for a Postgres connection, while all of "
        "DATABASE_POOL_MAX are in use or none can be made; after that it is refused (503).",
    )

    outage_belief_s: float = Field(
        default=3600.0,
        ge=0.0,
        le=86_400.0,
        description="How long API keys, and on the LLM route memberships, that this process has "
        "read are believed while Postgres does not answer. A key that is revoked then stops "
        "within seconds where Postgres is reached, and elsewhere after this.",
    )

    commit_wait: Wait = Field(
        default="none",
        description="What the answer to a commit, release, charge or touch waits for: `none`, "
        "`fsync` (the disk of Redis), `replica` (a replica's memory) or `replica-fsync` (both "
        "disks). All but `none` and `replica` need Redis 7.2 or Valkey.",
    )
    reserve_wait: Wait = Field(
        default="none",
        description="The same for a reserve. Losing one costs an over-admission, losing a commit "
        "costs what it charged.",
    )
    wait_replicas: int = Field(
        default=1, ge=1, le=16, description="How many replicas a wait for replicas wants."
    )
    wait_timeout_s: float = Field(
        default=1.5,
        ge=0.001,
        le=60.0,
        description="How long what was done waits to be confirmed (with `appendfsync everysec`, "
        "`fsync` takes up to a second). After that the answer is 503 OUTCOME_UNKNOWN and names who "
        "did not confirm.",
    )

    account_queue_max: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Most operations of one account that wait in this process beyond the next "
        "calls; more are refused (429, TOO_MANY_WAITING), commits and releases beyond twice as "
        "many.",
    )

    connections_per_peer_max: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Most connections from one address; by default three in four of all, which are "
        "as many as the process has descriptors for, at most 10,000. Behind a proxy every caller "
        "has its address.",
    )

    strangers_per_minute: int = Field(
        default=600,
        ge=0,
        le=1_000_000,
        description="Requests a minute that one address may make without valid credentials (those "
        "that are answered 401); more are refused (429) before anything of them is read, but for "
        "callers whose credentials were accepted within the last minute. Requests that make no "
        "sense (400, 405, 408, 413, 415, 422) count too, by their length, and against their caller "
        "if that is known: who has made too many is refused late, and bodies over 16 kB of theirs "
        "are refused unread (429). 0 is no limit.",
    )

    overdraft_report_credits: int = Field(
        default=100,
        ge=0,
        le=900_000_000_000,
        description="How far below zero an account may be before each commit that leaves it there "
        "is a line in the log and counted in the sidecar's /metrics. Late commits, and those above "
        "their hold, are charged in full, so nobody is stopped by this.",
    )

    credit_lines: str | None = Field(
        default=None,
        description="Organisations that may go on while Redis is away, and how many credits may be "
        "outstanding in each process: `acme=500,globex=20.5`. Charged when it is back; a balance "
        "may go below zero by it. Nobody when unset: requests are refused (503).",
    )
    credit_journal: Path | None = Field(
        default=None,
        description="File of this process alone that keeps what was admitted on credit; needed "
        "with TAXIMETER_CREDIT_LINES.",
    )

    cell: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9-]{0,31}$",
        description="Name of this cell in the directory, where organisations live in several "
        "cells; unset: there is only this system.",
    )
    directory_url: str | None = Field(
        default=None,
        description="Postgres database with the directory of cells, for a user of the role "
        "taximeter_app, or taximeter_sidecar for a sidecar; needed with TAXIMETER_CELL.",
    )

    @field_validator("directory_url")
    @classmethod
    def _directory_is_postgres(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("postgres://", "postgresql://")):
            raise ValueError("must start with postgresql://")
        return url

    @model_validator(mode="after")
    def _cell_and_directory(self) -> Self:
        if (self.cell is None) != (self.directory_url is None):
            raise ValueError("TAXIMETER_CELL and TAXIMETER_DIRECTORY_URL are set both or neither")
        return self

    @field_validator("credit_lines")
    @classmethod
    def _lines_are_credits(cls, text: str | None) -> str | None:
        _lines(text)
        return text

    @model_validator(mode="after")
    def _lines_need_a_journal(self) -> Self:
        if self.credit_lines and self.credit_journal is None:
            raise ValueError("TAXIMETER_CREDIT_LINES needs TAXIMETER_CREDIT_JOURNAL")
        return self

    @property
    def credit(self) -> CreditLines | None:
        """The credit lines of this process, if there are any."""
        if not self.credit_lines or self.credit_journal is None:
            return None
        return CreditLines(_lines(self.credit_lines), self.credit_journal)

    def meter_settings(self) -> MeterSettings:
        """How the meter of this process behaves."""
        return MeterSettings(
            key_prefix=self.key_prefix,
            account_queue_max=self.account_queue_max,
            reserve_wait=self.reserve_wait,
            commit_wait=self.commit_wait,
            wait_replicas=self.wait_replicas,
            wait_timeout_s=self.wait_timeout_s,
            durability=self.durability,
            overdraft_report=self.overdraft_report_credits * 1000,
        )


def _lines(text: str | None) -> dict[str, int]:
    """Millicredits by organisation. Raises ValueError naming the organisation and the limit."""
    lines: dict[str, int] = {}
    for part in (text or "").split(",") if text else ():
        org_id, _, credits = part.strip().rpartition("=")
        try:
            millicredits = Decimal(credits) * 1000
        except InvalidOperation:
            raise ValueError(f"{part!r} is not organisation=credits") from None
        if not millicredits.is_finite() or millicredits != int(millicredits):
            raise ValueError(f"the line of {org_id} must be credits with at most 3 decimals")
        lines[org_id] = int(millicredits)
    CreditLines(lines, Path())
    return lines
