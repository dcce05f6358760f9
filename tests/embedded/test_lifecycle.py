"""The embedded servers keep what they answered, and never outlive the process that started them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis as redis_py
from support.servers import ValkeyFactory, run_sql, select_one

from taximeter.api.embedded import machine
from taximeter.api.embedded import server as server_module
from taximeter.api.embedded.machine import LOOPBACK, ServerFailed, free_port
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.embedded.server import EmbeddedServer
from taximeter.api.embedded.valkey import EmbeddedValkey

PARENT = """
import signal, sys, time
from pathlib import Path
from taximeter.api.embedded.postgres import EmbeddedPostgres
from taximeter.api.embedded.valkey import EmbeddedValkey
# The tests may run under nohup, or in the background of a shell: their children ignore these.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
folder = Path(sys.argv[1])
with EmbeddedValkey(folder / "valkey") as valkey, EmbeddedPostgres(folder / "postgres") as postgres:
    print(valkey.pid, postgres.pid, flush=True)
    print(valkey.url, postgres.url, flush=True)
    # A signal that comes just before a sleep is heard after it.
    while True:
        time.sleep(0.1)
"""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, even if nobody has collected its exit code yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in {"Z", "X"}


@pytest.mark.parametrize(
    "signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_servers_end_with_their_parent_and_start_again(
    tmp_path: Path, signal_number: signal.Signals
) -> None:
    """However the parent ends, no server stays behind, and its folder starts with all its data."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    redis_url, database_url = parent.stdout.readline().split()
    client = redis_py.Redis.from_url(redis_url)
    client.set("kept", "yes")
    client.close()
    run_sql(database_url, "CREATE TABLE kept AS SELECT 42 AS answer")

    parent.send_signal(signal_number)
    parent.wait(120)
    parent.stdout.close()
    for pid in pids:
        wait_until(lambda pid=pid: is_gone(pid), f"server {pid} ends with its parent")

    with EmbeddedValkey(tmp_path / "valkey") as valkey:
        client = redis_py.Redis.from_url(valkey.url)
        assert client.get("kept") == b"yes"
        client.close()
    with EmbeddedPostgres(tmp_path / "postgres") as postgres:
        assert select_one(postgres.url, "SELECT answer FROM kept") == "42"


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The kernel's death signal is tied to a thread, which must not be one that comes and goes."""
    server = EmbeddedValkey(tmp_path)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        # The thread's end would have been reported before the next one could start and be joined.
        second = threading.Thread(target=lambda: None)
        second.start()
        second.join()
        client = redis_py.Redis.from_url(server.url)
        assert client.ping()
        client.close()
        assert server.running
    finally:
        server.stop()


def test_ctrl_c_reaches_us_and_not_the_servers(valkey_server: ValkeyFactory) -> None:
    """Ctrl-C goes to the whole terminal session; the servers must still be there to drain into."""
    assert os.getsid(valkey_server().pid) != os.getsid(0)


def test_valkey_keeps_its_data_and_port_after_a_kill(valkey_server: ValkeyFactory) -> None:
    server = valkey_server("--appendfsync", "always")
    client = redis_py.Redis.from_url(server.url)
    client.set("answered", "yes")
    first_pid, url = server.pid, server.url
    server.kill()
    wait_until(lambda: is_gone(first_pid), "the killed server is gone")
    with pytest.raises(redis_py.ConnectionError):
        client.get("answered")
    server.start()
    assert server.url == url
    assert client.get("answered") == b"yes"
    client.close()


def test_valkey_starts_with_a_torn_file(valkey_server: ValkeyFactory) -> None:
    """A machine that died in the middle of a write leaves half a command: the rest must load."""
    server = valkey_server("--appendfsync", "always")
    client = redis_py.Redis.from_url(server.url)
    client.set("whole", "yes")
    server.kill()
    (log,) = (server.data_dir / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    server.start()
    assert client.get("whole") == b"yes"
    client.close()


def test_postgres_keeps_its_data_and_port_after_a_kill(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        run_sql(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        url = server.url
        server.kill()
        server.start()
        assert server.url == url
        assert select_one(url, "SELECT answer FROM kept") == "42"


def test_postgres_starts_beside_half_a_cluster(tmp_path: Path) -> None:
    """A first start that was killed in the middle must not stand in the way of the next one."""
    half = tmp_path / "cluster.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path) as server:
        assert select_one(server.url, "SELECT current_database()") == "taximeter"
    assert not half.exists()


def test_two_servers_never_share_a_folder(
    valkey_server: ValkeyFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writers of one append-only file would lose charges."""
    monkeypatch.setattr(server_module, "LOCK_TIMEOUT_S", 0.1)
    first = valkey_server()
    with pytest.raises(ServerFailed, match="another process uses"):
        EmbeddedValkey(first.data_dir).start()
    assert first.running


def test_a_taken_port_is_not_mistaken_for_our_own(
    tmp_path: Path, valkey_server: ValkeyFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server on the port we chose answers too: only our own process counts."""
    other = valkey_server()
    ports = iter([other.port])
    choose = server_module.kept_port
    monkeypatch.setattr(server_module, "kept_port", lambda path: next(ports, None) or choose(path))
    with EmbeddedValkey(tmp_path / "mine") as server:
        assert server.port != other.port
        client = redis_py.Redis.from_url(server.url)
        assert client.info("server")["process_id"] == server.pid
        client.close()


def test_the_next_process_finds_a_server_on_the_port_of_the_last_one(tmp_path: Path) -> None:
    """Unless somebody else has it by then."""
    with EmbeddedValkey(tmp_path / "mine") as server:
        first = server.port
    with EmbeddedValkey(tmp_path / "mine") as server:
        assert server.port == first
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind((LOOPBACK, first))
        squatter.listen()
        with EmbeddedValkey(tmp_path / "mine") as server:
            assert server.port != first


def test_a_port_is_given_out_once() -> None:
    """Also to another process, and although no server listens on it yet."""
    first = free_port(3)
    ports = {first, first + 1, first + 2} | {free_port() for _ in range(20)}
    assert len(ports) == 23
    for port in ports:
        with pytest.raises(OSError, match="in use"):
            machine._claim(port)


def test_claims_of_ports_do_not_pile_up() -> None:
    """One process, and one descriptor for each of its last ports."""
    for _ in range(2 * machine._CLAIMS_MAX):
        free_port()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        free_port()
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(machine._claims) == machine._CLAIMS_MAX


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"(?s)Valkey ended with code 1.*no-such-setting"):
        EmbeddedValkey(tmp_path, ["--no-such-setting", "1"]).start()


def test_a_restart_on_a_port_taken_meanwhile_says_so(valkey_server: ValkeyFactory) -> None:
    """Clients wait for the old port, so coming back on another one would be no help."""
    server = valkey_server()
    server.stop()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind((LOOPBACK, server.port))
        squatter.listen()
        with pytest.raises(ServerFailed, match="Address already in use"):
            server.start()


@pytest.mark.parametrize("kind", [EmbeddedValkey, EmbeddedPostgres])
def test_stop_leaves_no_process(tmp_path: Path, kind: type[EmbeddedServer]) -> None:
    server = kind(tmp_path)
    server.start()
    pid = server.pid
    server.stop()
    assert is_gone(pid)
    assert not server.running
    server.stop()
