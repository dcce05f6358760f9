"""A process looks again whose installation it is, whatever became of the look before."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from support.waiting import eventually

from taximeter.api.running import installation_watch
from taximeter.api.running.installation_watch import InstallationWatch


class ScriptedPool:
    """Answers each question for the installation by the next of these, and then by the last."""

    def __init__(self, *answers: Exception | dict[str, Any]) -> None:
        self._answers = list(answers)

    async def fetchrow(self, query: str) -> dict[str, Any]:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    "trouble",
    [
        asyncpg.InternalClientError("the session was ended between two commands"),
        asyncpg.UndefinedColumnError("no migration yet"),
        asyncpg.InterfaceError("the pool is closing"),
        ConnectionResetError(),
        TimeoutError(),
        KeyError("is_stopped"),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
async def test_it_looks_again(trouble: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation_watch, "LOOK_EVERY_S", 0.0)
    ours: dict[str, Any] = {"name": "staging", "is_stopped": False}
    pool: Any = ScriptedPool(trouble, ours, trouble, {**ours, "name": "production"})
    told: list[bool] = []
    watch = InstallationWatch(pool, "staging", told.append)

    async def is_stopped() -> bool:
        return watch.stopped

    async with watch.watching():
        await eventually(is_stopped, what="a look after one that failed")
    assert told == [True]


async def test_what_was_found_stays_while_it_cannot_be_asked() -> None:
    pool: Any = ScriptedPool({"name": "production", "is_stopped": False}, ConnectionResetError())
    watch = InstallationWatch(pool, "staging")
    for _ in range(3):
        await watch.look()
        assert watch.stopped


async def test_what_nobody_expects_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    pool: Any = ScriptedPool(asyncpg.InsufficientPrivilegeError("permission denied"))
    watch = InstallationWatch(pool, "staging")
    for _ in range(3):
        await watch.look()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
