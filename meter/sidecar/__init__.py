"""Serves the meter over plain HTTP, as one ASGI application: the sidecar.

Standard library only, besides what the meter itself needs, so that it comes with the plain install
and costs little more than the server's own work. `docs/sidecar.md` is its manual.
"""

from __future__ import annotations

from taximeter.meter.sidecar.app import Sidecar, create_sidecar
from taximeter.meter.sidecar.bearer import ApiKeys

__all__ = ["ApiKeys", "Sidecar", "create_sidecar"]
