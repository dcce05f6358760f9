"""Says what of LiteLLM's price map is not in the price list that was made of it."""

from __future__ import annotations

from typing import Final

from taximeter.api.commands.common import some_lines
from taximeter.meter.pricing.litellm_map import Imported

NOTES_SHOWN: Final = 10


def report_of(found: Imported, most: int | None) -> list[str]:
    """What is not as in the map, a line a model; at most so many lines of a kind."""
    lines = []
    if found.notes:
        lines.append(f"{len(found.notes)} of them also have prices that are NOT METERED here:")
        lines += some_lines(
            [f"  {model}: {', '.join(names)}" for model, names in found.notes.items()], most
        )
    if found.left_out:
        lines.append(f"{len(found.left_out)} models were left out:")
        lines += some_lines([f"  {model}: {why}" for model, why in found.left_out.items()], most)
    return lines
