"""The wheel carries everything; its plain install is a client that lives beside any redis-py."""

from __future__ import annotations

import re
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from support.packages import install, make_environment, run
from support.servers import ValkeyFactory
from support.sources import sources

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "lua", "meter", "migrations", "settler")
SERVER_ONLY = ("arq", "asyncpg", "click", "fastapi", "httpx", "pydantic", "structlog", "uvicorn")

# What a stranger's gateway does first, run where nothing but the plain install is there. Opening
# the shard and loading the account are the settler's work; the scripts for them travel in the same
# wheel.
CLIENT_STORY = """
import asyncio, importlib.resources, importlib.util, pkgutil, sys, warnings
warnings.simplefilter("error")
import redis.asyncio, taximeter.meter
from taximeter.meter import InsufficientCredits, Meter
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import load_script

for module in pkgutil.walk_packages(taximeter.meter.__path__, "taximeter.meter."):
    if module.name != "taximeter.meter.traced":  # Of the extra `otel`.
        importlib.import_module(module.name)
missing = [name for name in {server_only!r} if importlib.util.find_spec(name) is not None]
assert not missing, f"the plain install brought {{missing}}"
assert importlib.resources.files("taximeter.lua").joinpath("operate.lua").is_file()
migrations = importlib.resources.files("taximeter.migrations").iterdir()
assert any(file.name.endswith(".sql") for file in migrations)

async def main(url):
    client = redis.asyncio.Redis.from_url(url)
    keys = ShardKeys("tm", 0)
    run_id = (await client.info("server"))["run_id"]
    run_id = run_id.decode() if isinstance(run_id, bytes) else run_id
    await load_script("open").call(client, keys.batch(), [1, 1, run_id, "", 1, 0])
    load = load_script("load")
    await load.call(client, [keys.accounts, keys.meta], [1, "org/user", 1000, 0])
    await client.aclose()
    async with await Meter.connect(url) as meter:
        async with await meter.reserve("org", "user", 800) as hold:
            hold.spent(300)
        try:
            await meter.reserve("org", "user", 701)
        except InsufficientCredits as refusal:
            assert (refusal.need, refusal.have) == (701, 700), refusal
        else:
            raise AssertionError("701 of 700 was admitted")
        balance = await meter.balance("org", "user")
        assert (balance.available, balance.held) == (700, 0), balance
    print("redis-py", redis.__version__)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def plain_install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a clean environment with the plain install and the newest redis-py."""
    python = make_environment(tmp_path_factory.mktemp("plain"))
    installed = install(python, wheel)
    assert installed.returncode == 0, installed.stderr
    return python


BUILT = ROOT / "api" / "browser" / "built"
NAMED = {"openapi.json", "openapi_examples.json", "corrections.toml", "amendments.toml", "py.typed"}


def test_every_package_and_data_file_is_in_the_wheel(wheel: Path) -> None:
    """What pyproject.toml does not name works in the clone and is missing everywhere else."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    packed = set(names)
    assert len(packed) == len(names)
    wanted = {"taximeter/__init__.py"} | {
        f"taximeter/{file.relative_to(ROOT)}"
        for package in PACKAGES
        for file in sources(ROOT / package, "")
        if file.suffix in {".py", ".lua", ".sql"}
        or file.name in NAMED
        or (BUILT in file.parents and file.name != ".made-of")
    }
    assert packed == wanted
    # What makes load stays in the clone (decision 0079).
    assert not [name for name in packed if re.search("bench|tests", name)]


def test_the_plain_install_asks_for_redis_and_hiredis_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    requirements = metadata.get_all("Requires-Dist") or []
    plain = [requirement for requirement in requirements if "extra ==" not in requirement]
    assert sorted(plain) == ["hiredis>=3", "redis>=5"]
    assert {"server", "embedded", "test", "lint", "dev"} <= set(
        metadata.get_all("Provides-Extra") or []
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("requirement", "major"), [("redis>=8", "8"), ("redis>=5,<6", "5"), ("redis>=6,<8", "[67]")]
)
def test_the_client_charges_beside_any_redis_py(
    plain_install: Path, valkey_server: ValkeyFactory, requirement: str, major: str
) -> None:
    """The client lives in other people's gateways, which have chosen their redis-py already."""
    installed = install(plain_install, requirement)
    assert installed.returncode == 0, installed.stderr
    story = CLIENT_STORY.format(server_only=SERVER_ONLY)
    told = run(plain_install, "-c", story, valkey_server().url)
    assert told.returncode == 0, told.stderr
    assert re.fullmatch(rf"redis-py {major}\..*\n", told.stdout)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_line_of_the_plain_install_names_the_extra(plain_install: Path) -> None:
    told = run(plain_install.with_name("taximeter"), "migrate")
    assert told.returncode == 2
    assert told.stdout == ""
    assert told.stderr.count("\n") == 1
    assert "pip install 'PATH[server]'" in told.stderr
