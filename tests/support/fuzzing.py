"""schemathesis against one of our programs: a few examples that are always the same in the suite,
or as many as there is time for (`make fuzz`).
"""

from __future__ import annotations

import asyncio
import os
import sys
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


async def fuzz(
    folder: Path, document: str, url: str, config: str, phases: str, checks: str, *more: str
) -> tuple[int, str]:
    """Its exit code, which is 0 when nothing was found, and what it said."""
    (folder / "schemathesis.toml").write_text(config, encoding="utf-8")
    pace = ["--generation-deterministic", f"--phases={phases}"]
    if MINUTES:
        pace = [f"--max-time={max(1, _SHARE_S)}", "--phases=examples,fuzzing,stateful"]
        more = tuple(one for one in more if not one.startswith("--max-examples"))
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM),
        f"--config-file={folder / 'schemathesis.toml'}",
        "run",
        document,
        f"--url={url}",
        f"--checks={checks}",
        *pace,
        *more,
        "--workers=2",
        "--request-timeout=120",
        "--no-color",
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    said = output.decode()
    (folder / "said.txt").write_text(said)
    if MINUTES:
        print(said[-3000:])
    assert process.returncode is not None
    return process.returncode, said
