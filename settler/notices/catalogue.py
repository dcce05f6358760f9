"""Lists every type of notice: when it is sent and what it says. docs/notices.md is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from taximeter.meter.wire.credits import credits_of

PERCENTS: Final = (50, 75, 80, 90, 95, 99)
"""At which a notice says how much is used."""
Percent = Literal[50, 75, 80, 90, 95, 99]


class NoticeData(BaseModel):
    """What a notice says. Credits are credits, with at most three decimals."""

    model_config = ConfigDict(extra="forbid")


class _Account(NoticeData):
    user_id: str
    allocated_credits: float
    used_credits: float
    remaining_credits: float
    expires_at: datetime | None


class AllocationLow(_Account):
    """Of 100 % when credits were last added, this much is used."""

    percents: list[Percent] = Field(description="Every step that was passed, in order")


class Allocation(_Account):
    """An allocation, as it was then."""


class AllocationExpiresSoon(NoticeData):
    """With `auto_renew` it begins again, if the pool can pay."""

    user_id: str
    days: Literal[1, 7] = Field(description="It ends within so many days")
    expires_at: datetime
    remaining_credits: float
    auto_renew: bool


class RenewalFailed(NoticeData):
    """The pool had too little."""

    history_id: UUID
    user_id: str | None
    allocated_credits: float | None = Field(description="What it needed")
    available_credits: float | None


class Pool(NoticeData):
    """A pool, as it was then. `remaining_credits` is what nobody has used."""

    total_credits: float
    allocated_credits: float
    used_credits: float
    available_credits: float
    remaining_credits: float


class PoolLow(Pool):
    """Of 100 % when credits were last added, this much is used."""

    percents: list[Percent] = Field(description="Every step that was passed, in order")


class Credits(NoticeData):
    """A line of the billing history."""

    history_id: UUID
    credits: float | None
    amount: float | None = Field(description="Dollars")
    currency: str
    payment_id: str | None
    user_id: str | None = Field(description="Whose allocation, where it was one's")


class Subscription(NoticeData):
    """The subscription, as it was then."""

    history_id: UUID | None = None
    plan_code: str | None
    plan_name: str | None
    status: str | None
    billing_cycle_end: date | None
    cancel_at_period_end: bool | None


class Invoice(NoticeData):
    """An invoice of the billing provider."""

    history_id: UUID
    invoice_id: str | None
    amount: float | None = Field(description="Dollars")
    currency: str


class Member(NoticeData):
    """A member and the role that it has, or had."""

    user_id: str
    role: Literal["admin", "member"]


class Key(NoticeData):
    """An API key, without what would let anybody use it."""

    key_id: str
    name: str
    last_four: str
    operations: list[str]
    user_id: str | None = Field(description="The only user that it acts for")
    expires_at: datetime
    by_user_id: str | None = Field(description="Who has done it")


class KeyExpiresSoon(NoticeData):
    """A key that nobody has revoked."""

    key_id: str
    name: str
    last_four: str
    days: Literal[1, 7] = Field(description="It ends within so many days")
    expires_at: datetime


class ShardEvents(NoticeData):
    """Events of one shard."""

    shard: int
    events: int
    reason: str | None = None


class Lag(NoticeData):
    """How far the books are behind the live balances."""

    shard: int
    unsettled_events: int
    unsettled_age_s: float


class Books(NoticeData):
    """What the comparison of live accounts with the books has found."""

    accounts: int = Field(description="That were compared")
    differences: int


class Disabled(NoticeData):
    """A receiver that is sent nothing any more, until an admin enables it."""

    receiver_id: UUID
    name: str
    kind: Literal["webhook", "slack", "email"]
    reason: Literal["gone", "failing"]


class Test(NoticeData):
    """Nothing has happened."""

    receiver_id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of notices. `when`: what has happened, as a sentence."""

    when: str
    data: type[NoticeData]
    is_of_installation: bool = False


KINDS: Final[dict[str, Kind]] = {
    "pool.low": Kind("So much of a pool is used: 50, 75, 80, 90, 95 or 99 %.", PoolLow),
    "pool.exhausted": Kind("Nothing of a pool remains.", Pool),
    "allocation.low": Kind(
        "So much of an allocation is used: 50, 75, 80, 90, 95 or 99 %.", AllocationLow
    ),
    "allocation.exhausted": Kind("Nothing of an allocation remains.", Allocation),
    "allocation.expires_soon": Kind(
        "An allocation ends within 7 days, and within one.", AllocationExpiresSoon
    ),
    "allocation.expired": Kind("An allocation has ended; what remained is the pool's.", Allocation),
    "allocation.renewed": Kind("An allocation has ended and begun again.", Allocation),
    "allocation.renewal_failed": Kind(
        "An allocation was to begin again, and the pool could not pay.", RenewalFailed
    ),
    "credits.purchased": Kind("Credits were added to a pool.", Credits),
    "credits.refunded": Kind("A charge was given back.", Credits),
    "credits.adjusted": Kind("A pool was corrected.", Credits),
    "subscription.created": Kind("An organisation has subscribed.", Subscription),
    "subscription.upgraded": Kind("It has changed its plan.", Subscription),
    "subscription.canceled": Kind("It ends with the period.", Subscription),
    "subscription.resumed": Kind("It goes on after all.", Subscription),
    "subscription.past_due": Kind("An invoice of it is open.", Subscription),
    "subscription.active": Kind("None is open any more.", Subscription),
    "subscription.ended": Kind("It has ended.", Subscription),
    "invoice.paid": Kind("An invoice was paid.", Invoice),
    "invoice.failed": Kind("A payment has failed.", Invoice),
    "member.invited": Kind("Somebody was invited.", Member),
    "member.joined": Kind("Somebody has become a member.", Member),
    "member.declined": Kind("Somebody has declined an invitation.", Member),
    "member.role_changed": Kind("A member has another role.", Member),
    "member.left": Kind("Somebody is no member any more.", Member),
    "key.created": Kind("An API key was made.", Key),
    "key.expires_soon": Kind("An API key ends within 7 days, and within one.", KeyExpiresSoon),
    "key.revoked": Kind("An API key was revoked.", Key),
    "system.settlement_stuck": Kind(
        "Charges wait for Postgres too long.", Lag, is_of_installation=True
    ),
    "system.settlement_resumed": Kind("They do no longer.", Lag, is_of_installation=True),
    "system.books_wrong": Kind(
        "Live accounts and books differ, twice in a row.", Books, is_of_installation=True
    ),
    "system.books_right": Kind("They do no longer.", Books, is_of_installation=True),
    "system.events_set_aside": Kind(
        "Charges could not be booked: dead letters.", ShardEvents, is_of_installation=True
    ),
    "system.events_lost": Kind(
        "Redis has lost charges before they were booked.", ShardEvents, is_of_installation=True
    ),
    "receiver.disabled": Kind("A receiver of notices was disabled.", Disabled),
    "receiver.test": Kind("An admin has asked for a test.", Test),
}
"""Every type, by its name."""


def in_credits(data: dict[str, Any]) -> dict[str, Any]:
    """Data of a notice as it is sent: Postgres has millicredits under the names of its columns."""
    return {
        name: credits_of(value)
        if (name == "credits" or name.endswith("_credits")) and type(value) is int
        else value
        for name, value in data.items()
    }
