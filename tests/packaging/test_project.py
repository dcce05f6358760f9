"""The files around the code say the same as the code: contracts, pins, containers."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.marks import ASKED
from support.order import ORDER, SPLIT

import taximeter.meter
from taximeter.api.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
LINKS = ROOT / "taximeter"
PACKAGES = ("api", "lua", "meter", "migrations", "settler")
PINS = (
    "constraints.txt",
    "constraints-server.txt",
    "constraints-litellm.txt",
    "constraints-plots.txt",
)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / ".ci" / name).read_text().splitlines()
    matches = (re.match(r"([a-z0-9-]+)(?:\[[^]]*])?==([^\s;]+)", line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def direct_requirements(*extras: str) -> list[Requirement]:
    """Return what the plain install and these extras ask for, with extras of our own unfolded."""
    metadata = project()["project"]
    waiting, seen, found = (
        list(extras),
        set(extras),
        list(map(Requirement, metadata["dependencies"])),
    )
    while waiting:
        for requirement in map(Requirement, metadata["optional-dependencies"][waiting.pop()]):
            if requirement.name != metadata["name"]:
                found.append(requirement)
                continue
            waiting += requirement.extras - seen
            seen |= requirement.extras
    return found


def test_no_module_imports_itself_by_a_detour() -> None:
    """Whoever reads a module can read what it needs first, and an import never depends on order.
    What only type checkers see counts as well.
    """
    graph = grimp.build_graph("taximeter", cache_dir=None)
    needed = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(needed).prepare()  # Names the circle, if there is one.


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("constraints.txt", ["dev"]),
        ("constraints-server.txt", ["build", "server", "otel", "exports"]),
        ("constraints-litellm.txt", ["litellm"]),
        ("constraints-plots.txt", ["plots"]),
    ],
)
def test_every_requirement_is_pinned(name: str, extras: list[str]) -> None:
    """A pin that is missing or too old makes the installation fail only on a fresh machine."""
    pins = pinned(name)
    for requirement in direct_requirements(*extras):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not pinned: run make constraints"
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def test_the_image_gets_the_versions_that_were_tested() -> None:
    tested = pinned("constraints.txt")
    for name, version in pinned("constraints-server.txt").items():
        assert tested[name] == version


@pytest.mark.parametrize("name", PINS)
def test_pins_carry_hashes_and_name_no_index(name: str) -> None:
    text = (ROOT / ".ci" / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-[if]\b|index-url|find-links|trusted-host", text, re.MULTILINE)
    blocks = re.split(r"\n(?=[a-z0-9])", text)
    assert [block for block in blocks if "==" in block and "--hash=sha256:" not in block] == []


def test_compose_file_is_valid() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    finished = subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout


def test_compose_runs_what_we_have() -> None:
    """A command or a setting that was renamed would make the containers fail alone."""
    from taximeter.api.settings.api import ApiSettings
    from taximeter.api.settings.sidecar import SidecarSettings
    from taximeter.settler.books.settings import CREDENTIALS, SettlerSettings

    known = {
        f"TAXIMETER_{field.upper()}"
        for settings in (ApiSettings, SettlerSettings, SidecarSettings)
        for field in settings.model_fields
    } | {"TAXIMETER_MIGRATE_DATABASE_URL", CREDENTIALS, "OTEL_EXPORTER_OTLP_ENDPOINT"}
    services = compose()["services"]
    assert set(services) == {
        *("redis", "arq-redis", "postgres"),
        *("migrate", "api", "sidecar", "settler", "simulator"),
    }
    ours = {name: service for name, service in services.items() if "build" in service}
    assert set(ours) == {"migrate", "api", "sidecar", "settler", "simulator"}
    for name, service in ours.items():
        assert service["command"][0] == name
        assert name in COMMANDS
        files = [one["target"].upper() for one in service.get("secrets", [])]
        for variable in (*service.get("environment", {}), *files):
            assert variable in known, f"{name} sets {variable}, which nothing reads"
        for other in service.get("depends_on", {}):
            assert other in services


def test_compose_keeps_balances_and_stays_on_this_machine() -> None:
    services = compose()["services"]
    balances = services["redis"]["command"]
    for setting, value in {"appendonly": "yes", "appendfsync": "everysec"}.items():
        assert balances[balances.index(f"--{setting}") + 1] == value
    for name in ("redis", "arq-redis"):
        command = services[name]["command"]
        assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert services["redis"]["volumes"]
    assert services["postgres"]["volumes"]
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What deploy/make-secrets makes."""
    folder = tmp_path_factory.mktemp("compose")
    (folder / "deploy").mkdir()
    program = shutil.copy(ROOT / "deploy" / "make-secrets", folder / "deploy")
    subprocess.run([program], check=True, capture_output=True, timeout=60)
    again = subprocess.run([program], check=False, capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert again.stderr.startswith("make-secrets: secrets/ is there already")
    return folder / "secrets"


def test_compose_mounts_the_secrets_that_are_made(secrets: Path) -> None:
    """The folder is its owner's alone; the files in it must be readable inside of containers."""
    assert secrets.stat().st_mode & 0o777 == 0o700
    named = {one["file"] for one in compose()["secrets"].values()}
    made = {f"secrets/{path.name}" for path in secrets.iterdir()}
    assert made - named == {"secrets/sidecar_key"}, "the key itself is the gateway's"
    assert named <= made
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in secrets.iterdir())
    texts = [path.read_text() for path in secrets.iterdir()]
    assert len(set(texts)) == len(texts)
    digest = hashlib.sha256((secrets / "sidecar_key").read_bytes()).hexdigest()
    assert (secrets / "sidecar_key_digest").read_text() == digest


def test_compose_processes_own_nothing_in_postgres(secrets: Path) -> None:
    """Only what migrates logs in as the owner; the others are members of the migrations' roles, and
    nobody sees the secrets of another one.
    """
    services, script = compose()["services"], compose()["configs"]["postgres-users"]["content"]
    owner = services["postgres"]["environment"]["POSTGRES_USER"]
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"] == (
        "/run/secrets/owner_password"
    )
    for name, login, role in (
        ("migrate", owner, None),
        ("api", "api", "app"),
        ("settler", "settler", "settler"),
        ("sidecar", "sidecar", "sidecar"),
    ):
        user = "owner" if role is None else name
        variable = "taximeter_migrate_database_url" if role is None else "taximeter_database_url"
        mounted = {one["target"]: one["source"] for one in services[name]["secrets"]}
        assert mounted.pop(variable) == f"{user}_url"
        assert set(mounted) == ({"taximeter_sidecar_keys"} if name == "sidecar" else set())
        password = (secrets / f"{user}_password").read_text()
        assert (secrets / f"{user}_url").read_text() == (
            f"postgresql://{login}:{password}@postgres:5432/taximeter?sslmode=disable"
        )
        if role is not None:
            assert f'--set={name}="$$(cat /run/secrets/{name}_password)"' in script
            assert (
                f"CREATE ROLE {name} LOGIN PASSWORD :'{name}' IN ROLE taximeter_{role};" in script
            )


def test_compose_has_no_secret_and_no_right_that_it_does_not_need() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert not re.search(r"PASSWORD: |SIDECAR_KEYS: |PASSWORD '|://[^@\s]+@", text)
    assert not re.search(r"(?<!sha256:)\b[0-9a-f]{48,64}\b", text)
    for service in compose()["services"].values():
        if "build" in service:
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_image_gets_every_package() -> None:
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert {link.name for link in LINKS.iterdir() if link.is_symlink()} == set(PACKAGES)
    for folder in ("taximeter", *PACKAGES):
        assert f"COPY {folder} {folder}\n" in recipe


def test_the_packages_are_links_to_the_folders_beside_them() -> None:
    """What an editor opens by the name that code imports is the file that git knows."""
    for name in PACKAGES:
        link = LINKS / name
        assert str(link.readlink()) == f"../{name}", "it must hold wherever the clone lies"
        assert (link / "__init__.py").samefile(ROOT / name / "__init__.py")
    listed = subprocess.run(
        ["git", "ls-files", "-s", "taximeter"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    kinds = {line.split("\t")[1]: line.split()[0] for line in listed}
    assert kinds == {
        "taximeter/__init__.py": "100644",
        **{f"taximeter/{name}": "120000" for name in PACKAGES},
    }


def test_the_files_that_come_first_are_there() -> None:
    """A file that was renamed would be run last, and everybody would wait for it."""
    missing = [file for file in ORDER if not (ROOT / "tests" / file).is_file()]
    assert missing == []
    assert set(SPLIT) <= set(ORDER)


def test_ci_asks_for_what_files_are_chosen_by() -> None:
    """Else it would read all of them, and take a minute more."""
    script = (ROOT / ".ci" / "test").read_text()
    asked = re.findall(r"'([^']*\balone\b[^']*)' \"\$@\"", script)
    assert set(asked) == {*ASKED, "not whole and not alone and not long"}


def test_modules_come_from_the_clone_under_one_name() -> None:
    """No installed copy is tested in place of the clone, and no file is two modules."""
    assert Path(taximeter.meter.__file__ or "").is_relative_to(ROOT / "taximeter")
    names: dict[str, set[str]] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        tests = str(ROOT / "tests")  # pytest gives a test that is run by its own name another one.
        if file and file.startswith(str(ROOT)) and not file.startswith((tests, f"{ROOT}/.venv")):
            names.setdefault(str(Path(file).resolve()), set()).add(name)
    assert {file: found for file, found in names.items() if len(found) > 1} == {}
