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

from chaos import cells
from chaos.runner import FAULTS, Outcome, run_chaos
from chaos.settings import CLUSTER, EVERYTHING, ON_A_CLUSTER, Run

RUN_S = 60.0
CELL_MOVE = "cell_move"
"""A world of its own, of two cells."""
VIOLATED, VOID = 1, 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; then one more each")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to go on")
    parser.add_argument(
        "--faults",
        help=f"only these, comma separated: {' '.join(sorted(FAULTS))}; or {CELL_MOVE} alone",
    )
    parser.add_argument("--keep", type=Path, help="folder for histories, logs and data")
    options = parser.parse_args()
    if options.faults == CELL_MOVE:
        return _move_cells(options.seed, options.minutes)
    faults = tuple(options.faults.split(",")) if options.faults else EVERYTHING
    unknown = [name for name in faults if name not in FAULTS]
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}")
    end = time.monotonic() + options.minutes * 60
    outcomes: list[Outcome] = []
    seed = options.seed
    while not outcomes or time.monotonic() + RUN_S / 2 < end:
        fsync = "always" if seed % 2 else "everysec"
        seconds = min(RUN_S, max(5.0, end - time.monotonic() - 15.0))
        on_cluster = tuple(name for name in faults if name in ON_A_CLUSTER)
        struck = on_cluster if seed % 6 == 5 and set(on_cluster) & set(CLUSTER) else faults
        # On a cluster fewer would leave a primary without any.
        shards = 6 if set(struck) <= set(ON_A_CLUSTER) else 1 + seed % 3
        run = Run(seed, seconds, struck, fsync=fsync, shards=shards, completes=True,
                  outcome_window_s=(300.0, 2.0)[seed % 4 == 0],
                  commit_wait="replica" if "replica_away" in faults and seed % 5 == 0 else "none",
                  )  # fmt: skip
        where = ", on a cluster" if run.on_cluster else ""
        print(f"seed {seed}: appendfsync {fsync}, {shards} shards{where}", flush=True)
        outcomes.append(_run(run, options.keep))
        _tell(outcomes[-1])
        seed += 1
    violated = [one.seed for one in outcomes if one.violations]
    void = [one.seed for one in outcomes if one.void]
    minutes = sum(one.seconds for one in outcomes) / 60
    print(f"{len(outcomes)} seeds, {minutes:.1f} minutes, violated {violated}, void {void}")
    return VIOLATED if violated else VOID if void else 0


def _move_cells(seed: int, minutes: float) -> int:
    folder = Path(tempfile.mkdtemp(prefix="taximeter-chaos-"))
    folder.chmod(0o755)
    outcome = asyncio.run(cells.run(seed, minutes * 60, folder))
    left = ", ".join(f"{state} {count}" for state, count in sorted(outcome.left.items()))
    print(
        f"seed {seed}: {outcome.moves} moves, {outcome.charged} millicredits charged; the command"
        f" was killed {outcome.kills} times (left {left or 'nothing'}), Redis"
        f" {outcome.redis_kills} times"
    )
    for line, times in outcome.refused.most_common(5):
        print(f"  {times} times: {line}")
    for line in outcome.violations:
        print(f"  VIOLATED: {line}")
    if outcome.violations:
        print(f"  kept in {folder}")
        return VIOLATED
    shutil.rmtree(folder, ignore_errors=True)
    return 0 if outcome.bit else VOID


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
