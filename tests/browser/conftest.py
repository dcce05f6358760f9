"""The API on real sockets, and a console that was built in a moment."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from support.api_world import api_options, payments, stores, world

from taximeter.api.browser import files

__all__ = ["api_options", "payments", "stores", "world"]

SCRIPT = b"console.log('hello')\n"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as `make console` leaves it, which the API serves."""
    folder = tmp_path / "built"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(
        '<meta property="csp-nonce" nonce="CSP_NONCE"><script type="module" nonce="CSP_NONCE"'
        ' src="/console/assets/index-abc123.js"></script><noscript>needs JavaScript</noscript>'
    )
    (folder / "favicon.svg").write_text("<svg/>")
    script = folder / "assets" / "index-abc123.js"
    script.write_bytes(SCRIPT)
    script.with_name("index-abc123.js.gz").write_bytes(gzip.compress(SCRIPT))
    script.with_name("index-abc123.js.br").write_bytes(b"as brotli packs it")
    monkeypatch.setattr(files, "BUILT", folder)
    return folder
