"""Lists who takes part in the demo, with how many credits, and what they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Person:
    """A user with an allocation. `thrifty` is the one whose credits do not suffice."""

    org_id: str
    user_id: str
    credits: Decimal
    thrifty: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """One chat completion."""

    person: Person
    model: str
    prompt: str
    max_tokens: int
    stream: bool


@dataclass(frozen=True, slots=True)
class Scenario:
    """Organisations with what they buy, their users, and every request in order."""

    journey_org_id: str
    purchases: dict[str, Decimal]
    people: list[Person]
    asks: list[Ask]


MODELS = ("gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo")
TOPICS = ("a ledger", "the tides", "prime numbers", "a train to Lisbon", "bread")
USERS_PER_ORGANISATION = (7, 7, 6)


def make_scenario(run: str, requests: int) -> Scenario:
    """The same people and requests every time; `run` keeps apart runs on one database."""
    organisations = [f"demo-{name}-{run}" for name in ("aurora", "borealis", "cirrus")]
    people = [
        Person(org_id, f"{org_id.split('-')[1]}-user-{number}", Decimal(400))
        for org_id, users in zip(organisations, USERS_PER_ORGANISATION, strict=True)
        for number in range(1, users + 1)
    ]
    thrifty = people[-1]
    people[-1] = Person(thrifty.org_id, thrifty.user_id, Decimal("0.100"), thrifty=True)
    asks = [
        Ask(
            person=people[number % len(people)],
            model=MODELS[number % len(MODELS)],
            prompt=f"Tell me about {TOPICS[number % len(TOPICS)]}, in words, take {number}.",
            max_tokens=24 + 8 * (number % 6),
            stream=number % 2 == 1,
        )
        for number in range(requests)
    ]
    purchases = {org_id: Decimal(5000) for org_id in organisations}
    return Scenario(f"demo-journey-{run}", purchases, people, asks)
