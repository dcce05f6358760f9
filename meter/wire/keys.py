"""Names every Redis key, and the names of accounts and requests inside the keys."""

from __future__ import annotations

from binascii import crc_hqx
from dataclasses import dataclass, field
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The eight keys of one shard. They share a hash tag, so that a shard is one slot of a Redis
    Cluster.
    """

    prefix: str
    shard: int
    accounts: str = field(init=False)
    holds: str = field(init=False)
    deadlines: str = field(init=False)
    outcomes: str = field(init=False)
    outcomes_old: str = field(init=False)
    meta: str = field(init=False)
    events: str = field(init=False)
    open_holds: str = field(init=False)

    def __post_init__(self) -> None:
        tag = f"{{{self.prefix}:{self.shard}}}"
        for name in (
            "accounts",
            "holds",
            "deadlines",
            "outcomes",
            "outcomes_old",
            "meta",
            "events",
            "open_holds",
        ):
            object.__setattr__(self, name, f"{tag}:{name}")

    def batch(self) -> list[str]:
        """KEYS of `operate` and `resolve`, in their order (`open` takes the same)."""
        return [
            self.accounts,
            self.holds,
            self.deadlines,
            self.outcomes,
            self.outcomes_old,
            self.meta,
            self.events,
            self.open_holds,
        ]

    def applying(self) -> list[str]:
        """KEYS of `apply`, in their order."""
        return [
            self.accounts,
            self.holds,
            self.deadlines,
            self.outcomes,
            self.meta,
            self.open_holds,
        ]

    def sweeping(self) -> list[str]:
        """KEYS of `sweep`, in their order."""
        return [
            self.accounts,
            self.holds,
            self.deadlines,
            self.outcomes,
            self.meta,
            self.events,
            self.open_holds,
        ]


def shard_of(org_id: str, shards: int) -> int:
    """The shard that keeps all accounts of an organisation: CRC-16/XMODEM of its id, modulo the
    number of shards.
    """
    return crc_hqx(org_id.encode(), 0) % shards


@lru_cache(maxsize=65_536)
def shard_of_account(account: str, shards: int) -> int:
    """The shard of an account by its name; remembered, since the same accounts come again."""
    return shard_of(account.partition("/")[0], shards)


def account_field(org_id: str, user_id: str) -> str:
    """Name of an account. An org_id has no `/` (limits.py), so the first one parts the two."""
    return f"{org_id}/{user_id}"


def split_account(account: str) -> tuple[str, str]:
    """(org_id, user_id) of an account name. Raises ValueError when it is not one, or has a zero
    byte, which Postgres does not take.
    """
    org_id, _, user_id = account.partition("/")
    if not org_id or not user_id or "\0" in account:
        raise ValueError(f"not an account name: {account!r}")
    return org_id, user_id


def request_field(org_id: str, request_id: str) -> str:
    """Name of a request inside holds, deadlines and outcomes: ids are scoped by organisation."""
    return f"{org_id}/{request_id}"
