"""A stand-in for systemctl where no systemd runs: it starts units as their files say, as far as
that needs no rights of root. `python systemctl.py FOLDER start UNIT...`

FOLDER has `places.json` (what stands in units, and where that is here), and `units`. A log, a
process id and the credentials of each unit are put beside them.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

STOP_S_MAX = 60.0


def main(folder: Path, command: str, *names: str) -> int:
    units = [name.removesuffix(".service") for name in names if not name.startswith("-")]
    if command == "daemon-reload":
        return 0
    assert command in ("start", "enable", "restart", "stop"), command
    assert command != "enable" or "--now" in names
    code = 0
    for unit in units:
        if command in ("restart", "stop"):
            stop(folder, unit)
        if command != "stop":
            code = start(folder, unit) or code
    return code


def start(folder: Path, unit: str) -> int:
    """0 if it runs now, or has ended well if it is a oneshot."""
    text = (folder / "units" / f"{unit}.service").read_text(encoding="utf-8")
    for place, ours in json.loads((folder / "places.json").read_text()).items():
        text = text.replace(place, ours)
    credentials = folder / "credentials" / unit
    shutil.rmtree(credentials, ignore_errors=True)
    credentials.mkdir(parents=True)
    environment = {"PATH": os.defpath, "CREDENTIALS_DIRECTORY": str(credentials)}
    arguments, kind = [], "simple"
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "ExecStart":
            arguments = shlex.split(value)
        elif name == "Type":
            kind = value
        elif name == "Environment":
            environment.update([value.split("=", 1)])
        elif name == "EnvironmentFile":
            for setting in Path(value).read_text(encoding="utf-8").splitlines():
                variable, _, quoted = setting.partition("=")
                environment[variable] = "".join(shlex.split(quoted))
        elif name == "LoadCredential":
            variable, _, file = value.partition(":")
            shutil.copy(file, credentials / variable)
        elif name == "StateDirectory":
            (folder / "state" / value).mkdir(parents=True, exist_ok=True)
    with (folder / f"{unit}.log").open("ab") as log:
        process = subprocess.Popen(
            arguments, env=environment, cwd="/", stdout=log, stderr=log, start_new_session=True
        )
    if kind == "oneshot":
        return process.wait()
    (folder / f"{unit}.pid").write_text(str(process.pid))
    return 0


def stop(folder: Path, unit: str) -> None:
    """Ask it to, and wait until it has ended."""
    file = folder / f"{unit}.pid"
    if not file.exists():
        return
    pid = int(file.read_text())
    file.unlink()
    end = time.monotonic() + STOP_S_MAX
    try:
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < end:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        return


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
