"""`make chaos SEED=7 MINUTES=5`: one run after the other until the time is over.

Exits 0 when everything held, 1 on a violation, 3 when a run was void because a fault did not bite.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from chaos.runner import FAULTS, Outcome, run_chaos
from chaos.settings import EVERYTHING, Run

RUN_S = 60.0
VIOLATED, VOID = 1, 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; then one more each")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to go on")
    parser.add_argument("--faults", help="only these, comma separated: " + " ".join(sorted(FAULTS)))
    parser.add_argument("--keep", type=Path, help="folder for histories, logs and data")
    options = parser.parse_args()
    faults = tuple(options.faults.split(",")) if options.faults else EVERYTHING
    unknown = [name for name in faults if name not in FAULTS]
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}")
    end = time.monotonic() + options.minutes * 60
    outcomes: list[Outcome] = []
    seed = options.seed
    while not outcomes or time.monotonic() + RUN_S / 2 < end:
        fsync = "always" if seed % 2 else "everysec"
        shards = 1 + seed % 3
        seconds = min(RUN_S, max(5.0, end - time.monotonic() - 15.0))
        run = Run(seed, seconds, faults, fsync=fsync, shards=shards, completes=True,
                  outcome_window_s=(300.0, 2.0)[seed % 4 == 0],
                  commit_wait="replica" if "replica_away" in faults and seed % 5 == 0 else "none",
                  )  # fmt: skip
        print(f"seed {seed}: appendfsync {fsync}, {shards} shards", flush=True)
        outcomes.append(_run(run, options.keep))
        _tell(outcomes[-1])
        seed += 1
    violated = [one.seed for one in outcomes if one.violations]
    void = [one.seed for one in outcomes if one.void]
    minutes = sum(one.seconds for one in outcomes) / 60
    print(f"{len(outcomes)} seeds, {minutes:.1f} minutes, violated {violated}, void {void}")
    return VIOLATED if violated else VOID if void else 0


def _run(run: Run, keep: Path | None) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="taximeter-chaos-"))
    # Postgres may run as another user, who has to walk through here.
    folder.chmod(0o755)
    outcome = asyncio.run(run_chaos(run, folder, lambda line: print(line, flush=True)))
    if keep is not None or outcome.violations:
        kept = (keep or Path(".data/chaos")) / f"seed-{run.seed}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, kept)
        print(f"  kept in {kept}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _tell(outcome: Outcome) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in sorted(outcome.counts.items()))
    print(f"  {outcome.seconds:.0f} s: {counts}")
    if outcome.waited_for:
        print(f"  the last to come to rest: {outcome.waited_for}")
    for line in outcome.toothless:
        print(f"  VOID: {line}")
    for line in outcome.violations[:20]:
        print(f"  VIOLATED: {line}")
    if len(outcome.violations) > 20:
        print(f"  and {len(outcome.violations) - 20} more")


if __name__ == "__main__":
    sys.exit(main())
