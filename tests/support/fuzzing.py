"""schemathesis against one of our programs: a few examples that are always the same in the suite,
or as many as there is time for (`make fuzz`).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Final

PROGRAM: Final = Path(sys.executable).with_name("schemathesis")
MINUTES: Final = float(os.environ.get("FUZZ_MINUTES", "0"))
"""How long all of the fuzzing may take together; 0 in the suite."""
ROLES: Final = ("system admin", "org admin", "member", "outsider")
KEYS: Final = (
    "everything",
    "charge@k",
    "reserve+commit+release+touch@k",
    "charge+lookup@k/ann",
    "",
)
"""Of the sidecar, as support.key_ring reads them; the last is none."""
_SHARE_S: Final = int(MINUTES * 60 / (len(ROLES) + len(KEYS)))
_PHASES: Final = ("examples", "stateful", "fuzzing")
"""One after the other, shortest first: each may take its part of the time that is left."""


async def fuzz(
    folder: Path, document: str, url: str, config: str, phases: str, checks: str, *more: str
) -> tuple[int, str]:
    """Its exit code, which is 0 when nothing was found, and what it said."""
    (folder / "schemathesis.toml").write_text(config, encoding="utf-8")
    asked = (document, f"--url={url}", f"--checks={checks}")
    if not MINUTES:
        return await _run(folder, *asked, "--generation-deterministic", f"--phases={phases}", *more)
    more = tuple(one for one in more if not one.startswith("--max-examples"))
    to_run = [phase for phase in _PHASES if phase in phases.split(",") or phase == "examples"]
    end = time.monotonic() + _SHARE_S
    found, told = 0, ""
    for done, phase in enumerate(to_run):
        share_s = int((end - time.monotonic()) / (len(to_run) - done))
        share = f"--max-time={max(1, share_s)}"
        code, said = await _run(folder, *asked, share, f"--phases={phase}", *more)
        print(said if code else said[-3000:])
        found, told = found or code, told + said
    return found, told


async def _run(folder: Path, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(str(PROGRAM), f"--config-file={folder / 'schemathesis.toml'}", "run", *arguments),
        *("--workers=2", "--request-timeout=120", "--no-color"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    said = output.decode()
    (folder / "said.txt").write_text(said)
    assert process.returncode is not None
    return process.returncode, said
