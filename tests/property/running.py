"""Runs a state machine on a private server, with a seed that can be given and is always printed."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from taximeter.api.embedded.valkey import EmbeddedValkey

# With everysec a write may wait in memory while an fsync is under way, and kill -9 then loses it.
ALWAYS = ("--appendfsync", "always")


def run_machine(machine: Any, folder: Path, *, examples: int, steps: int) -> None:
    """PROPERTY_SEED repeats a run, PROPERTY_EXAMPLES makes it longer; a failure prints both.

    The machine gets the class attributes `server` and `loop`.
    """
    examples = int(os.environ.get("PROPERTY_EXAMPLES", str(examples)))
    number = int(os.environ.get("PROPERTY_SEED", str(random.SystemRandom().randrange(2**32))))
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
                    deadline=None,
                    print_blob=True,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            machine.loop.close()
