"""A replica that lacks the last writes is elected under load."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.failover import CASES, failover_world


@pytest.mark.timeouts  # Callers give up in time, as they do elsewhere.
@pytest.mark.timeout(600)
async def test_nothing_but_what_it_lacks_is_missing_and_the_guardian_says_so(
    database_url: str, tmp_path: Path, redis_binary: Path | None
) -> None:
    (lag,) = [case for case in CASES if case.name == "lag"]
    async with failover_world(tmp_path, database_url, redis_binary) as world:
        for victim_of in range(3):
            outcome = await world.round(lag, victim_of)
            assert outcome.wrong == []
            if outcome.elections == 1:
                break
        assert outcome.elections == 1, "a busy machine has elections that nobody meant"
    assert outcome.missing
    assert outcome.missing_too_early == []
    assert outcome.not_told == set()
    assert {call.shard for call in outcome.missing} <= outcome.shards
    assert {call.shard for call in outcome.calls if not call.error} == set(range(12))
