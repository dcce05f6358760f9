"""A Postgres that archives its log as docs/backups.md says, and can be put back to a moment."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Final

from taximeter.api.embedded import server as embedded_server
from taximeter.api.embedded.machine import LOOPBACK
from taximeter.api.embedded.postgres import SUPERUSER, EmbeddedPostgres, postgres_program

ARCHIVE_WAL: Final = Path(__file__).parents[2] / "deploy" / "archive-wal"
RESTORE_S_MAX: Final = 3_600.0
"""A start replays the log first."""


class ArchivedPostgres(EmbeddedPostgres):
    """Its log goes to `backups/wal`, its base backup to `backups/base`, which several servers may
    be made of.
    """

    def __init__(self, data_dir: Path, backups: Path, *, archives: bool = True) -> None:
        self.backups = backups
        self.wal = backups / "wal"
        program = backups / "archive-wal"
        super().__init__(
            data_dir,
            (
                *(
                    "-c",
                    f"archive_mode={'on' if archives else 'off'}",
                    "-c",
                    f"archive_command={program} %p {self.wal}/%f",
                ),
                *("-c", f"restore_command=cp {self.wal}/%f %p", "-c", "archive_timeout=60"),
            ),
        )
        embedded_server.READY_TIMEOUT_S = RESTORE_S_MAX

    def prepare(self) -> None:
        super().prepare()
        if not self.wal.exists():
            self._own(self.backups)
            self._own(self.wal)
            shutil.copy(ARCHIVE_WAL, self.backups / "archive-wal")

    def back_up(self) -> None:
        """Copy everything, while it runs."""
        base = self.backups / "base"
        self._own(base)
        self.run_to_end(
            [
                *(str(postgres_program("pg_basebackup")), f"--pgdata={base}", "--no-sync"),
                *("--checkpoint=fast", "--wal-method=none", f"--username={SUPERUSER}"),
                *(f"--host={LOOPBACK}", f"--port={self.port}"),
            ],
            what="pg_basebackup",
        )

    def put_back(self, moment: datetime | None) -> None:
        """Replace the data by the backup and bring it to that moment, or to the end of what there
        is. The server must be down; it answers when this returns.
        """
        if self.cluster.exists():
            # What was not archived yet: the page says to keep it.
            for segment in (self.cluster / "pg_wal").glob("0*"):
                if segment.is_file() and not (self.wal / segment.name).exists():
                    subprocess.run(["cp", "-a", str(segment), str(self.wal)], check=True)
            shutil.rmtree(self.cluster)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(self.backups / "base"), str(self.cluster)], check=True)
        with (self.cluster / "postgresql.auto.conf").open("a") as settings:
            if moment is not None:
                settings.write(f"recovery_target_time = '{moment.isoformat()}'\n")
                settings.write("recovery_target_action = 'promote'\n")
        signal = self.cluster / "recovery.signal"
        signal.touch()
        if self.identity.uid != -1:
            os.chown(signal, self.identity.uid, self.identity.gid)
        self.start()

    def _own(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True)
        if self.identity.uid != -1:
            os.chown(folder, self.identity.uid, self.identity.gid)
