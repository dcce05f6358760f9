"""What a run is, and the runs that are always the same: all in one table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

LINKS: Final = (
    "gateway-",
    "sidecar-1>redis",
    "sidecar-2>redis",
    "settler-1>",
    "settler-2>",
    "api>",
)
"""Parts of names of links: a fault of the network befalls all the links that one of these names."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run. Faults come one after the other, each in its own time, until `seconds` are over;
    `faults` come in this order when `in_order`, else as the seed draws them.

    outcome_window_s: how long Redis remembers ended requests, short so that repeats come later.
    commit_wait: TAXIMETER_COMMIT_WAIT of the sidecars.
    pause_s: longest pause of a caller of a gateway between two requests.
    converge_s: how long everything may take to come to rest; a bound for machines that are slow.
    completes: whether somebody calls the LLM route.
    """

    seed: int
    seconds: float
    faults: tuple[str, ...]
    in_order: bool = False
    fsync: str = "everysec"
    shards: int = 1
    outcome_window_s: float = 300.0
    commit_wait: str = "none"
    rest_s: tuple[float, float] = (0.3, 1.2)
    pause_s: float = 0.06
    converge_s: float = 180.0
    completes: bool = False

    @property
    def replica(self) -> bool:
        return bool({"promotion", "stale_promotion", "replica_away"} & set(self.faults))

    @property
    def promotes_postgres(self) -> bool:
        return bool(set(POSTGRES_FAILOVER) & set(self.faults))

    @property
    def on_cluster(self) -> bool:
        """Whether Redis is a cluster: when some fault is of one, and none of one Redis alone."""
        return bool(set(CLUSTER) & set(self.faults)) and set(self.faults) <= set(ON_A_CLUSTER)

    @property
    def moves_clocks(self) -> bool:
        """Whether the clocks of our own processes are moved."""
        return bool(set(PROCESS_CLOCKS) & set(self.faults))

    @property
    def valkey_args(self) -> tuple[str, ...]:
        return ("--repl-diskless-sync-delay", "0") if self.replica else ()


@dataclass(frozen=True, slots=True)
class Ci:
    """A run that is always the same: `make test` makes those that are not `long`, and
    `make chaos-runs` the others. `sometimes`: what must have happened in it at least once, beside
    each of its faults having bitten.
    """

    name: str
    run: Run
    sometimes: tuple[str, ...] = field(default=())
    long: bool = False


PROCESSES: Final = (
    "kill_gateway", "kill_sidecar", "kill_settler", "kill_api", "kill_scheduler_redis",
    "pause_gateway", "pause_sidecar", "pause_settler", "pause_api",
    "restart_sidecar", "restart_settler", "restart_api", "freeze_settler", "freeze_settlers",
)  # fmt: skip
ANSWERS: Final = (
    "swallow_then_full", "swallow_then_rebuild", "swallow_then_flush", "restart_in_outage",
)  # fmt: skip
HOLDS: Final = ("cut_hold", "sql_deductions")
CREDIT: Final = ("credit_lines_restarted",)
NETWORK: Final = ("delay", "lose_replies", "reset", "half_open", "slice", "black_hole")
REDIS: Final = (
    "kill_redis", "restart_redis", "pause_redis", "script_flush", "client_kill", "memory_full",
)  # fmt: skip
REDIS_LOSS: Final = ("flushall", "cut_log", "older_redis", "promotion", "stale_promotion")
WAITS: Final = ("replica_away",)
POSTGRES: Final = (
    "kill_postgres", "pause_postgres", "terminate_backends", "older_postgres",
    "older_postgres_written",
)  # fmt: skip
POSTGRES_FAILOVER: Final = ("postgres_promotion", "postgres_promotion_behind")
PROCESS_CLOCKS: Final = ("clock_of_settler", "clock_of_sidecar", "clock_of_api")
CLOCK: Final = ("clock_ahead", "clock_back", *PROCESS_CLOCKS)
NODES: Final = ("failover", "flap", "hung_node", "uncovered_slot")
CLUSTER: Final = ("slot_move", *NODES)
ON_A_CLUSTER: Final = (*CLUSTER, *PROCESSES)
"""What a run on a cluster has: all other faults are of one Redis, or of the way to it."""
EVERYTHING: Final = (
    *PROCESSES, *NETWORK, *REDIS, *REDIS_LOSS, *POSTGRES, *POSTGRES_FAILOVER, *CLOCK, *ANSWERS,
    *HOLDS, *WAITS, *CREDIT, *CLUSTER,
)  # fmt: skip

CALM_S: Final = 1.0
"""`pause_s` of these runs: faults bite as well among fewer requests."""

CI_RUNS: Final = (
    Ci(
        "smoke",
        Run(
            seed=110,
            seconds=12,
            faults=("kill_sidecar", "cut_log", "restart_settler", "kill_gateway"),
            in_order=True,
            pause_s=CALM_S,
        ),
    ),
    Ci(
        "processes",
        Run(
            seed=101,
            seconds=22,
            faults=(
                "kill_gateway",
                "kill_sidecar",
                "kill_settler",
                "restart_sidecar",
                "pause_sidecar",
                "kill_api",
                "restart_settler",
                "pause_settler",
            ),
            in_order=True,
            pause_s=CALM_S,
            shards=2,
            outcome_window_s=2.0,
        ),
        (
            "healed",
            "late",
            "expired",
            "duplicate",
            "transfer ok",
            "deallocate ok",
            "member removed",
        ),
        long=True,
    ),
    Ci(
        "network",
        Run(seed=102, seconds=22, faults=NETWORK, in_order=True, pause_s=CALM_S),
        ("healed", "late"),
        long=True,
    ),
    Ci(
        "redis that keeps its promise",
        Run(seed=103, seconds=20, faults=REDIS, in_order=True, pause_s=CALM_S, fsync="always"),
        ("replayed", "approved", "out of memory", "late"),
        long=True,
    ),
    Ci(
        "redis that loses data",
        Run(seed=104, seconds=24, faults=REDIS_LOSS, in_order=True, pause_s=CALM_S),
        ("rebuilt", "late", "lost", "transfer ok", "deallocate ok", "member removed"),
        long=True,
    ),
    Ci(
        "postgres",
        Run(
            seed=105,
            seconds=30,
            faults=(*POSTGRES_FAILOVER, *POSTGRES),
            in_order=True,
            pause_s=CALM_S,
        ),
        ("rebuilt", "late", "transfer ok", "deallocate ok", "member removed"),
        long=True,
    ),
    Ci(
        "clock",
        Run(seed=106, seconds=10, faults=CLOCK, in_order=True, pause_s=CALM_S),
        ("late", "expired"),
        long=True,
    ),
    Ci(
        "cluster",
        Run(
            seed=108,
            seconds=20,
            faults=("slot_move", "kill_settler", "kill_sidecar", "pause_settler"),
            in_order=True,
            pause_s=CALM_S,
            shards=3,
        ),
        ("approved", "late"),
        long=True,
    ),
    Ci(
        "answers",
        Run(
            seed=107,
            seconds=20,
            faults=(
                "swallow_then_full",
                "restart_in_outage",
                "credit_lines_restarted",
                "swallow_then_flush",
                "sql_deductions",
            ),
            in_order=True,
            pause_s=CALM_S,
        ),
        ("healed", "out of memory", "rebuilt", "late"),
        long=True,
    ),
    Ci(
        "nodes",
        Run(seed=109, seconds=60, faults=NODES, in_order=True, pause_s=CALM_S, shards=6),
        ("rebuilt", "approved"),
        long=True,
    ),
)
