"""Reads what a shard says of an organisation that is away."""

from __future__ import annotations

from typing import Final

from taximeter.meter.wire.errors import MeterError, OrganizationMoves, WrongCell

FIELD: Final = "away:"
"""What a field of meta begins with; the organisation follows."""
GONE: Final = "gone "
"""What is said of one that lives in another cell begins with this."""


def away_error(org_id: str, said: str) -> MeterError:
    """What to raise for an organisation of which a shard, or Postgres, says this."""
    word, *rest = said.split(" ")
    if word == "gone" and len(rest) == 3:
        return WrongCell(org_id, *rest)
    return OrganizationMoves(org_id)


def moving(move: str) -> str:
    """What is said while this move goes on."""
    return f"moving {move}"


def gone(cell: str, api_url: str, sidecar_url: str) -> str:
    """What is said of an organisation that lives in another cell."""
    return f"gone {cell} {api_url} {sidecar_url}"
