"""Commands that empty or fill a folder: never one that somebody else has anything in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.forked import run_forked

from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.api.local.folder import MARKER, FolderRefused, own_folder

PROGRAMS = {
    "demo": ["taximeter.api", "demo"],
    "dev": ["taximeter.api", "dev"],
    "bench": ["bench"],
}
OWNERS = tuple(PROGRAMS)


def refusal(command: str, folder: Path) -> str:
    """What the command says when it refuses a folder at once."""
    module, *arguments = PROGRAMS[command]
    finished = run_forked(
        *(*arguments, "--data-dir", str(folder)),
        module=module,
        environment={**os.environ, "COLUMNS": "400"},
    )
    assert finished.returncode == 1, finished.text
    [line] = [one for one in finished.text.splitlines() if one.startswith("Error")]
    return line


def contents(folder: Path) -> dict[str, str]:
    return {
        str(one.relative_to(folder)): one.read_text() for one in folder.rglob("*") if one.is_file()
    }


def a_thesis(folder: Path) -> None:
    (folder / "thesis.tex").write_text("ten years of work")


def a_folder_of_dev(folder: Path) -> None:
    with own_folder(folder, "dev"):
        (folder / "valkey").mkdir()
        (folder / "valkey" / "aof").write_text("balances")


def a_folder_of_demo(folder: Path) -> None:
    with own_folder(folder, "demo"):
        (folder / "kept").write_text("figures")


def a_marker_of_nobody(folder: Path) -> None:
    (folder / MARKER).write_text("")
    (folder / "kept").write_text("figures")


def a_marker_with_more(folder: Path) -> None:
    (folder / MARKER).write_text("demo dev bench\n")


@pytest.mark.parametrize(
    ("command", "filled", "said"),
    [
        *((command, a_thesis, "thesis.tex is in it") for command in OWNERS),
        ("demo", a_folder_of_dev, "belongs to 'dev'"),
        ("bench", a_folder_of_dev, "belongs to 'dev'"),
        ("dev", a_folder_of_demo, "belongs to 'demo'"),
        ("demo", a_marker_of_nobody, "belongs to ''"),
        ("demo", a_marker_with_more, "belongs to 'demo dev bench'"),
    ],
)
def test_a_folder_of_somebody_else_is_refused_by_name(
    tmp_path: Path, command: str, filled: Callable[[Path], None], said: str
) -> None:
    filled(tmp_path)
    before = contents(tmp_path)
    line = refusal(command, tmp_path)
    assert str(tmp_path) in line
    assert said in line
    assert contents(tmp_path) == before


@pytest.mark.parametrize("owner", OWNERS)
def test_a_folder_in_use_is_refused(tmp_path: Path, owner: str) -> None:
    with own_folder(tmp_path, owner):
        (tmp_path / "kept").write_text("figures")
        assert "in use" in refusal(owner, tmp_path)
    assert (tmp_path / "kept").exists()


def test_servers_whose_parent_is_gone_are_not_emptied_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taximeter.api.local.folder.SERVERS_END_WITHIN_S", 0.0)
    with own_folder(tmp_path, "demo"):
        server = EmbeddedValkey(tmp_path / "valkey")
        server.start()
    try:
        with (
            pytest.raises(FolderRefused, match="still runs"),
            own_folder(tmp_path, "demo", empty=True),
        ):
            pass
        assert (tmp_path / "valkey" / "appendonlydir").exists()
    finally:
        server.stop()


def test_a_folder_of_its_own_is_emptied_and_links_in_it_are_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    a_thesis(elsewhere)
    folder = tmp_path / "demo"
    with own_folder(folder, "demo", empty=True):
        (folder / "valkey").mkdir()
        (folder / "valkey" / "aof").write_text("old")
        (folder / "link").symlink_to(elsewhere, target_is_directory=True)
    with own_folder(folder, "demo", empty=True) as used:
        assert [one.name for one in used.iterdir()] == [MARKER]
    assert contents(elsewhere) == {"thesis.tex": "ten years of work"}


def test_a_marker_that_is_a_link_is_no_marker(tmp_path: Path) -> None:
    folder, kept = tmp_path / "demo", tmp_path / "kept"
    folder.mkdir()
    kept.write_text("demo\n")
    (folder / MARKER).symlink_to(kept)
    (folder / "figures").write_text("1, 2, 3")
    with (
        pytest.raises(FolderRefused, match="cannot be used"),
        own_folder(folder, "demo", empty=True),
    ):
        pass
    assert (folder / "figures").exists()


def test_dev_goes_on_with_a_folder_of_the_first_release(tmp_path: Path) -> None:
    for name in ("valkey", "postgres", "logs"):
        (tmp_path / name).mkdir()
    for owner in ("demo", "bench"):
        with pytest.raises(FolderRefused, match="not empty"), own_folder(tmp_path, owner):
            pass
    with own_folder(tmp_path, "dev"):
        assert (tmp_path / "valkey").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(FolderRefused, match="cannot be used"), own_folder(tmp_path / "file", "dev"):
        pass
