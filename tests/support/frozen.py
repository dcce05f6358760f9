"""Whether a process has taken its start out of the sight of Python's collector."""

from __future__ import annotations

import re


def frozen_objects(metrics: str) -> float:
    """How many objects that were, by what /metrics says."""
    found = re.search(r"^taximeter_frozen_objects (\S+)$", metrics, re.MULTILINE)
    assert found is not None, metrics
    return float(found[1])
