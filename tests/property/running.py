"""Runs a state machine on a private server, with a seed that is always printed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from support.examples import EXPLORES, examples_or, seed_of_machines

from taximeter.api.embedded.valkey import EmbeddedValkey

# With everysec a write may wait in memory while an fsync is under way, and kill -9 then loses it.
ALWAYS = ("--appendfsync", "always")
MACHINE_S: Final = 0 if EXPLORES else 900
"""For the mark `timeout`: who asks for more examples knows why it takes long."""


def run_machine(machine: Any, folder: Path, *, examples: int, steps: int) -> None:
    """The same examples in every run of the suite; see support.examples for other ones.

    The machine gets the class attributes `server` and `loop`.
    """
    examples, number = examples_or(examples), seed_of_machines()
    print(f"PROPERTY_SEED={number} PROPERTY_EXAMPLES={examples}")
    seed(number)(machine)
    with EmbeddedValkey(folder, ALWAYS) as server:
        machine.server, machine.loop = server, asyncio.new_event_loop()
        try:
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=steps,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            machine.loop.close()
