"""`make restore-drill`: back up a system, put its stores back in every way, and count what is
missing. Exits 1 when that is not what docs/backups.md says.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

from drill.cases import CASES, drill


def main() -> int:
    parser = argparse.ArgumentParser(prog="make restore-drill", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="charges before the backup")
    parser.add_argument("--count", type=int, default=2_000, help="charges between two steps")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--folder", type=Path, help="keep everything there; it must be empty")
    options = parser.parse_args()
    cases = options.cases.split(",")
    if unknown := [name for name in cases if name not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="taximeter-drill-"))
    folder.mkdir(parents=True, exist_ok=True)
    # Postgres may run as another user, who has to walk through here.
    folder.chmod(0o755)
    load = os.getloadavg()[0]
    print(f"load {load:.1f}, {os.cpu_count()} cores", flush=True)
    results = asyncio.run(
        drill(
            folder,
            rows=options.rows,
            count=options.count,
            cases=cases,
            say=lambda line: print(line, flush=True),
        )
    )
    if options.folder is None and not any(one.wrong for one in results):
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if any(one.wrong for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
