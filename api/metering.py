"""Settings of every process that has a Meter, from variables with the prefix TAXIMETER_."""

from __future__ import annotations

from pydantic import Field

from taximeter.meter import MeterSettings
from taximeter.meter.waits import Wait
from taximeter.settler.settings import StoreSettings


class MeteringSettings(StoreSettings):
    """How far a write must be before its caller is answered."""

    commit_wait: Wait = Field(
        default="none",
        description="What the answer to a commit, release, charge or touch waits for: `none`, "
        "`fsync` (the disk of Redis), `replica` (a replica's memory) or `replica-fsync` (both "
        "disks). All but `none` and `replica` need Redis 7.2 or Valkey.",
    )
    reserve_wait: Wait = Field(
        default="none",
        description="The same for a reserve. Losing one costs an over-admission, losing a commit "
        "costs what it charged.",
    )
    wait_replicas: int = Field(
        default=1, ge=1, le=16, description="How many replicas a wait for replicas wants."
    )
    wait_timeout_s: float = Field(
        default=1.5,
        ge=0.001,
        le=60.0,
        description="How long one wait may take (with `appendfsync everysec`, `fsync` takes up to "
        "a second). After that the operation is repeated under its "
        "id until time is over, and then its outcome is unknown (503 OUTCOME_UNKNOWN).",
    )

    def meter_settings(self) -> MeterSettings:
        """How the meter of this process behaves."""
        return MeterSettings(
            key_prefix=self.key_prefix,
            reserve_wait=self.reserve_wait,
            commit_wait=self.commit_wait,
            wait_replicas=self.wait_replicas,
            wait_timeout_s=self.wait_timeout_s,
        )
