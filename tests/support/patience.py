"""Time-outs of production, made so long that no machine is too slow for them.

Ours are short where somebody waits for an answer: a store that says nothing for a second is away.
On a machine that is busy with other tests it is merely late, and what a test wants to know is
something else. Who tests a time-out gives its own, or says with `@pytest.mark.timeouts` that those
of production stay; `@pytest.mark.timeouts(take_timeout_s=2.0)` is that one of the meter alone.
"""

from __future__ import annotations

import inspect
import sys
from typing import Final

import pytest

from taximeter.meter import MeterSettings

PATIENT_S: Final = 60.0
METER: Final = ("take_timeout_s", "call_timeout_s", "resolve_timeout_s")
API: Final = {"database_timeout_s": PATIENT_S, "database_wait_s": PATIENT_S}
_CONSTANTS: Final = (
    "taximeter.api.access.api_keys.LOOKUP_TIMEOUT_S",
    "taximeter.api.upstreams.config.CONNECT_TIMEOUT_S",
    "taximeter.api.access.rate_limits.ANSWER_TIMEOUT_S",
    "taximeter.api.billing.charges.READ_S",
    "taximeter.api.billing.live_balances.APPLY_TIMEOUT_S",
    "taximeter.api.access.memberships.LOOKUP_TIMEOUT_S",
    "taximeter.meter.places.places.LOOK_TIMEOUT_S",
    "taximeter.settler.books.connections._CHECK_S",
    "taximeter.settler.status.health.TIMEOUT_S",
    "taximeter.settler.worker.jobs._LOOK_S",
)
_FIELDS: Final = tuple(inspect.signature(MeterSettings).parameters)


def be_patient(monkeypatch: pytest.MonkeyPatch, **meter: float) -> None:
    """Until the end of the test, in this process alone, and in what it has imported."""
    for name in _CONSTANTS:
        module, _, constant = name.rpartition(".")
        if module in sys.modules:
            monkeypatch.setattr(sys.modules[module], constant, PATIENT_S)
    old = MeterSettings.__init__.__defaults__ or ()
    new = {**dict(zip(_FIELDS, old, strict=True)), **dict.fromkeys(METER, PATIENT_S), **meter}
    monkeypatch.setattr(MeterSettings.__init__, "__defaults__", tuple(new.values()))
