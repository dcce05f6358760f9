"""What is believed of memberships while Postgres does not answer, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from taximeter.api.access.memberships import ASK_AGAIN_S, Memberships


class AwayPool:
    """A pool whose server can go away; counts the questions."""

    def __init__(self) -> None:
        self.away = False
        self.asked = 0
        self.rows = [
            {
                "org_id": "acme",
                "org_name": "Acme",
                "role": "member",
                "personal": False,
                "is_default": False,
                "plan_code": None,
                "has_allocation": True,
                "suspended": False,
            }
        ]

    async def fetch(self, *_: object) -> list[dict[str, Any]]:
        self.asked += 1
        if self.away:
            raise ConnectionRefusedError
        return self.rows


@pytest.fixture
def pool() -> AwayPool:
    return AwayPool()


async def test_what_was_read_is_believed_for_its_time_and_no_longer(pool: AwayPool) -> None:
    now = [0.0]
    known = Memberships(pool, 2.0, outage_s=60.0, clock=lambda: now[0])  # type: ignore[arg-type]
    assert [one.org_id for one in await known.of("ann")] == ["acme"]
    pool.away, now[0] = True, 3.0
    for _ in range(10):
        assert len(await known.of("ann")) == 1
    assert pool.asked == 2, "a server that is away is asked once in a while"
    now[0] += ASK_AGAIN_S
    assert len(await known.of("ann")) == 1
    assert pool.asked == 3
    now[0] = 60.0
    with pytest.raises(ConnectionRefusedError):
        await known.of("ann")
    with pytest.raises(ConnectionRefusedError):
        await known.of("bob")


async def test_who_was_removed_is_not_believed_in(pool: AwayPool) -> None:
    now = [0.0]
    known = Memberships(pool, 2.0, outage_s=60.0, clock=lambda: now[0])  # type: ignore[arg-type]
    assert await known.of("ann")
    pool.rows, now[0] = [], 3.0
    assert await known.of("ann") == ()
    pool.away = True
    with pytest.raises(ConnectionRefusedError):
        await known.of("ann")
