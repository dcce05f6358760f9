"""The three servers that Taximeter needs, under one folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.embedded.valkey import EmbeddedValkey

DEFAULT_DATA_DIR = Path(".data")


@dataclass(frozen=True, slots=True)
class Stack:
    """The running servers; their URLs are what the settings of every process ask for."""

    valkey: EmbeddedValkey
    arq_valkey: EmbeddedValkey
    postgres: EmbeddedPostgres

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    @property
    def arq_redis_url(self) -> str:
        return self.arq_valkey.url

    @property
    def database_url(self) -> str:
        return self.postgres.url


@contextlib.contextmanager
def embedded_stack(data_dir: Path = DEFAULT_DATA_DIR) -> Iterator[Stack]:
    """Run the servers until the block ends; their data stays in `data_dir` for the next time.

    arq has a server of its own, without a file: a queue of jobs that start again by the clock must
    not share the memory, the latency and the disk of the balances.
    """
    valkey = EmbeddedValkey(data_dir / "valkey")
    arq_valkey = EmbeddedValkey(data_dir / "arq", append_only=False)
    postgres = EmbeddedPostgres(data_dir / "postgres")
    with valkey, arq_valkey, postgres:
        yield Stack(valkey, arq_valkey, postgres)
