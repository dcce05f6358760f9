"""`taximeter demo --cells 2`, with what it starts played: `make chaos-runs` has it whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from taximeter.api.commands import demo, group


@pytest.mark.parametrize("off", [[], ["the books of cell b"]])
def test_two_systems_are_started_and_one_organisation_moves(
    off: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its name and the same directory and keys; what is off anywhere is an exit code."""
    started: dict[str, dict[str, str]] = {}
    moved: list[tuple[str, str]] = []

    @contextmanager
    def system(folder: Path, *, settings: dict[str, str], **_: Any) -> Iterator[SimpleNamespace]:
        name = settings["TAXIMETER_CELL"]
        started[name] = settings
        assert (folder / demo.KEY_FILE_NAME).exists()
        yield SimpleNamespace(
            name=name,
            api_url=f"http://{name}",
            database_url=f"postgresql://{name}",
            redis_url=name,
        )

    async def story(_console: object, one: SimpleNamespace, _requests: int) -> list[str]:
        assert one.name == "a"
        return []

    async def registered(url: str, systems: dict[str, SimpleNamespace]) -> None:
        assert (url, list(systems)) == ("directory", ["a", "b"])

    async def by_urls(org_id: str, **where: Any) -> None:
        assert (where["database_url"], where["to_redis_url"]) == ("postgresql://a", "b")
        moved.append((where["cell"], where["to"]))

    async def move(_console: object, _systems: object, _key: object, mover: Any, _: object) -> Any:
        await mover("acme")
        return off

    for name, played in (
        ("local_system", system),
        ("_start_directory", lambda stack, folder: "directory"),
        ("_tell", story),
        ("register_cells", registered),
        ("move_by_urls", by_urls),
        ("move_between", move),
    ):
        monkeypatch.setattr(demo, name, played)
    told = CliRunner().invoke(group, ["demo", "--cells", "2", "--data-dir", str(tmp_path / "demo")])
    assert told.exit_code == (1 if off else 0), told.output
    assert started.keys() == {"a", "b"}
    assert {one["TAXIMETER_DIRECTORY_URL"] for one in started.values()} == {"directory"}
    assert moved == [("a", "b")]
    assert all(one in told.output for one in off)
