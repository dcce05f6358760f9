"""One pair of Debian's servers for all pages."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.debian import Debian, debian_servers


@pytest.fixture(scope="session")
def debian() -> Iterator[Debian]:
    """Debian's servers, in a folder that their own users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="taximeter-pages-"))
    folder.chmod(0o755)
    try:
        with debian_servers(folder) as servers:
            yield servers
    finally:
        shutil.rmtree(folder)
