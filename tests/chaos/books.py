"""Waits until a healed system has come to rest, and proves its books (I1 to I7, I9, I11 to I15)."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from chaos.admin_judge import judge_admin
from chaos.cluster import Cluster
from chaos.history import due_in, open_in, read_lines
from chaos.scene import Key, Loss
from taximeter.settler.books.stores import Stores
from taximeter.settler.proof.check import CheckLimits, check
from taximeter.settler.proof.reconcile import CouldNotLook

_FIGURE: Final = re.compile(rb"-?[0-9]{1,15}")
_CAP: Final = 9 * 10**14
_EFFECTS_SQL: Final = """
SELECT format('buy %s %s', org_id, (amount * 100)::bigint)
  FROM org_billing_history WHERE event_type = 'credits_purchased'
UNION ALL
SELECT format('allocate %s/%s %s', org_id, user_id, delta)
  FROM taximeter.account_entries WHERE kind = 'allocation'
UNION ALL
SELECT format('%s %s %s %s>%s %s', kind, org_id, idempotency_key, from_user, to_user, amount)
  FROM taximeter.moves WHERE state = 'done' AND kind IN ('transfer', 'deallocation')
"""
"""What admins asked for, in the words of chaos.admin, from rows that came with the effect."""
_SET_ASIDE_SQL: Final = "FROM taximeter.dead_letters WHERE reason <> 'duplicate'"
_AT_A_FORK_SQL: Final = "detail LIKE '% more lines than the id has numbers'"
_BEHIND_SQL: Final = "SELECT count(*) FROM taximeter.accounts WHERE entry_seq > applied_seq"
_OPEN_SQL: Final = """
SELECT (SELECT count(*) FROM taximeter.moves WHERE state = 'pending'),
       (SELECT count(*) FROM user_credit_allocations WHERE is_active AND closing IS NOT NULL)
"""


@dataclass(slots=True)
class Books:
    """What was found when all was still. ledger: millicredits by request."""

    violations: list[str] = field(default_factory=list)
    ledger: dict[Key, int] = field(default_factory=dict)
    rested_s: float = 0.0
    waited_for: str = ""
    """What was the last to come to rest."""
    counts: dict[str, int] = field(default_factory=dict)


async def prove(cluster: Cluster, losses: list[Loss], forked: bool = False) -> Books:
    """Everything at rest, then everything compared. What does not come to rest is a violation.

    `forked`: a server of another history was rebuilt. The watermark may stand inside one of its
    entries then, whose beginning nobody can number: that is set aside with its raw bytes.
    """
    books = Books()
    async with cluster.stores() as stores:
        started = time.monotonic()
        restless = await _rest(cluster, stores, books)
        books.rested_s = time.monotonic() - started
        if restless:
            books.violations.append(
                f"I15 not at rest after {cluster.run.converge_s:.0f} s: {restless}"
            )
        await _check(stores, books)
        for row in await stores.pool.fetch(
            "SELECT org_id, request_id, sum(credits_used)::bigint AS amount"
            " FROM credit_usage_attribution WHERE shard IS NOT NULL OR request_id LIKE 'sql-%'"
            " GROUP BY 1, 2"
        ):
            books.ledger[row["org_id"], row["request_id"]] = row["amount"]
        await _count(stores, books, forked)
        await _figures(cluster, stores, books)
        _set_aside_on_credit(cluster, books)
        await _administered(cluster, stores, books, losses)
    return books


async def _rest(cluster: Cluster, stores: Stores, books: Books) -> str:
    """Wait for it; returns what is not at rest, if anything."""
    deadline = time.monotonic() + cluster.run.converge_s
    while True:
        try:
            restless = await _unrest(cluster, stores)
        except Exception as error:
            restless = f"{type(error).__name__}: {error}"
        if not restless or time.monotonic() > deadline:
            return restless
        books.waited_for = restless
        await asyncio.sleep(0.2)


async def _unrest(cluster: Cluster, stores: Stores) -> str:
    for row in await stores.pool.fetch("SELECT * FROM taximeter.watermarks ORDER BY shard"):
        keys = stores.keys(row["shard"])
        epoch, seq = await stores.redis.hmget(keys.meta, ["epoch", "seq"])
        if epoch is None or epoch.decode() != str(row["epoch"]):
            return f"shard {row['shard']} is at {epoch!r}, Postgres at {row['epoch']}"
        if int(seq) != row["seq"]:
            return f"shard {row['shard']}: {int(seq) - row['seq']} events are not settled"
        holds = await stores.redis.hlen(keys.holds)
        if holds:
            return f"shard {row['shard']}: {holds} holds are open"
    entries = await stores.pool.fetchval(_BEHIND_SQL)
    if entries:
        return f"{entries} accounts have entries that are not applied"
    for sidecar in ("sidecar-1", "sidecar-2"):
        waiting = open_in(cluster.journal(sidecar))
        if waiting:
            return f"{sidecar} has not charged what it admitted on credit: {sorted(waiting)[:3]}"
    for charges in cluster.kept_charges:
        if due := due_in(charges):
            return f"the API has not charged what it kept: {sorted(due)[:3]}"
    pending, closing = await stores.pool.fetchrow(_OPEN_SQL)
    return (
        f"{pending} moves are pending, {closing} allocations closing" if pending + closing else ""
    )


async def _check(stores: Stores, books: Books) -> None:
    """`taximeter check`, with no patience: nothing runs any more. Losses are judged elsewhere."""
    try:
        report = await check(stores, CheckLimits(hold_grace_s=0.1, loss_alarm_s=0.0))
    except CouldNotLook as error:
        books.violations.append(f"check could not look: {error}")
        return
    for one in report.invariants:
        books.violations += [f"{one.name} {violation}" for violation in one.violations]


async def _count(stores: Stores, books: Books, forked: bool) -> None:
    for name, sql in (
        ("settled", "SELECT sum(settled_events) FROM taximeter.watermarks"),
        ("duplicate", "SELECT count(*) FROM taximeter.dead_letters WHERE reason = 'duplicate'"),
        ("set aside", f"SELECT count(*) {_SET_ASIDE_SQL} AND NOT {_AT_A_FORK_SQL}"),
        ("set aside at a fork", f"SELECT count(*) {_SET_ASIDE_SQL} AND {_AT_A_FORK_SQL}"),
        ("expired", "SELECT count(*) FROM taximeter.charged_requests WHERE by_expiry"),
        ("holes", "SELECT sum(seq_last - seq_first + 1) FROM taximeter.lost_events"),
        ("epoch", "SELECT max(epoch) FROM taximeter.watermarks"),
    ):
        books.counts[name] = int(await stores.pool.fetchval(sql) or 0)
    if books.counts["set aside"] or (books.counts["set aside at a fork"] and not forked):
        rows = await stores.pool.fetch(f"SELECT reason, detail {_SET_ASIDE_SQL} LIMIT 3")
        books.violations.append(f"I15 events were set aside: {[tuple(row) for row in rows]}")


def _set_aside_on_credit(cluster: Cluster, books: Books) -> None:
    """What was admitted on credit and can never be charged: of accounts that exist, nothing."""
    for sidecar in ("sidecar-1", "sidecar-2"):
        journal = cluster.journal(sidecar)
        for line in read_lines(journal.with_name(f"{journal.name}.refused")):
            books.violations.append(f"I15 {sidecar} could not charge on credit: {line}")


async def _figures(cluster: Cluster, stores: Stores, books: Books) -> None:
    """I9: every stored figure is a whole number within its cap; nothing is held any more."""
    for shard in range(cluster.run.shards):
        keys = stores.keys(shard)
        for account, record in (await stores.redis.hgetall(keys.accounts)).items():
            parts = record.split(b" ")
            right = len(parts) == 3 and all(_FIGURE.fullmatch(part) for part in parts)
            if not right or abs(int(parts[0])) > _CAP or int(parts[1]) != 0:
                books.violations.append(f"I9 {account.decode()}: {record!r}")
    bad = await stores.pool.fetchval(
        "SELECT count(*) FROM credit_usage_attribution WHERE credits_used NOT BETWEEN 0 AND 10^12"
    )
    if bad:
        books.violations.append(f"I9 {bad} amounts of usage are out of range")


async def _administered(cluster: Cluster, stores: Stores, books: Books, losses: list[Loss]) -> None:
    """What was bought, allocated, moved and changed about members is there once, as it was told;
    what an organisation has in all is what it has bought.
    """
    rows = await stores.pool.fetch(_EFFECTS_SQL)
    members = await stores.pool.fetch(
        "SELECT org_id || '/' || user_id, status FROM organization_members WHERE user_id <> 'boss'"
    )
    lines = read_lines(cluster.folder / "admin.jsonl")
    found = judge_admin(lines, Counter(row[0] for row in rows), dict(members), losses)
    books.violations += found.violations
    books.counts |= found.counts
    for row in await stores.pool.fetch(
        "SELECT org_id, total_credits, available_credits FROM organization_credit_pools"
    ):
        if row["total_credits"] != found.bought[row["org_id"]]:
            books.violations.append(
                f"I7 {row['org_id']} has {row['total_credits']} in all,"
                f" and bought {found.bought[row['org_id']]}"
            )
        if row["available_credits"] < 0:
            books.violations.append(f"I3 {row['org_id']} has promised what it does not have")
