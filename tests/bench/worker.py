"""The real settler process beside a benchmark, and what it takes of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.books import Books
from bench.servers import Servers
from taximeter.api.local.process import LocalProcess


@contextmanager
def settler_process(servers: Servers, books: Books) -> Iterator[LocalProcess]:
    """`taximeter settler` with its defaults on these books; stopped at the end."""
    with servers.arq_url() as arq_url:
        process = LocalProcess(
            "settler",
            ["settler"],
            {
                "TAXIMETER_REDIS_URL": books.redis_url,
                "TAXIMETER_ARQ_REDIS_URL": arq_url,
                "TAXIMETER_DATABASE_URL": books.database_url,
                "TAXIMETER_KEY_PREFIX": servers.prefix,
                "TAXIMETER_ARQ_QUEUE": f"taximeter:{servers.prefix}",
            },
            servers.data_dir / "logs" / "settler.log",
        )
        process.start()
        try:
            yield process
        finally:
            process.stop()


def resident_mb(pid: int) -> float:
    """Memory of a process that is in use right now, in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far, by itself and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
