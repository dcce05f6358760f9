"""One wheel for all packaging tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.wheel import shared_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return shared_wheel(tmp_path_factory)
