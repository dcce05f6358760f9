"""In which order, and in which pieces, the suite is given to the processes that run it: what takes
longest comes first, so that no process is left with a long file when the others have ended.
"""

from __future__ import annotations

from typing import Final

import pytest
from xdist.scheduler import LoadFileScheduling

ORDER: Final = (
    # Of make test-whole, which has few tests and ends when the longest of these does.
    "operate/test_running.py",
    "pages/test_walk.py",
    "gateways/test_litellm.py",
    "console/test_journeys.py",
    "acceptance/test_commands.py",
    "pages/test_production.py",
    "acceptance/test_rolling_restart.py",
    "acceptance/test_no_secret_in_logs.py",
    "property/test_system_machine.py",
    "api/test_schemathesis.py",
    "sidecar/test_schemathesis.py",
    "drill/test_drill.py",
    # Of make test, and of both.
    "chaos/test_chaos.py",
    "settler/test_cell_moves.py",
    "attacks/test_connections.py",
    "attacks/test_killed_while_charging.py",
    "search/test_search.py",
    "settler/test_kill_at_every_await.py",
    "settler/test_moves_killed.py",
    "api/test_admin_pairs.py",
    "attacks/test_parse_bombs.py",
    "settler/test_worker.py",
    "packaging/test_wheel.py",
    "property/test_shard_machine.py",
    "acceptance/test_one_line.py",
    "sql/test_migrations.py",
    "api/test_oidc.py",
    "guide/test_twice.py",
    "settler/test_check.py",
    "settler/test_maintenance.py",
    "guide/test_scenario_two.py",
    "sidecar/test_bodies.py",
    "settler/test_power_loss.py",
)
"""Files, longest first; what is not listed comes after them."""
SPLIT: Final = (
    "chaos/test_chaos.py",
    "attacks/test_connections.py",
    "attacks/test_killed_while_charging.py",
    "acceptance/test_commands.py",
    "api/test_schemathesis.py",
    "search/test_search.py",
    "settler/test_kill_at_every_await.py",
    "settler/test_moves_killed.py",
    "api/test_admin_pairs.py",
)
"""Of these each test is a piece of its own, as none shares anything with the others. Every other
file is one piece.
"""
_RANKS: Final = {f"tests/{file}": rank for rank, file in enumerate(ORDER)}
_SPLIT: Final = frozenset(f"tests/{file}" for file in SPLIT)


def longest_first(items: list[pytest.Item]) -> None:
    """Sort in place; what is not listed keeps its order."""
    items.sort(key=lambda item: _RANKS.get(item.nodeid.partition("::")[0], len(_RANKS)))


class Pieces(LoadFileScheduling):  # type: ignore[misc]
    """As `--dist loadfile`, but for the files that are split."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file in _SPLIT else file
