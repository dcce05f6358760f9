"""The history of a run: one JSON line for every attempt of a caller and for every answer.

A line is handed to the kernel in one write before the call goes out, so that it outlives a caller
that is killed. Times are seconds of the machine's clock, which all processes of a run share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taximeter.meter.wire.operations import Operation

Line = dict[str, Any]


class Recorder:
    """Appends lines to a file. Several processes may have the same file open."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, what: str, **fields: Any) -> float:
        """Write one line; returns its time."""
        at = time.time()
        text = json.dumps({"at": at, "what": what, **fields}, separators=(",", ":"))
        os.write(self._file, text.encode() + b"\n")
        return at

    def close(self) -> None:
        os.close(self._file)


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file; the last one may be torn by a kill and is then left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for raw in file:
            if raw.endswith(b"\n"):
                yield json.loads(raw)


def open_in(journal: Path) -> set[str]:
    """The requests (`org/request`) that a journal of a credit line has not ended."""
    found: set[str] = set()
    for line in read_lines(journal):
        if line["do"] == "open":
            found.add(line["operation"][Operation._fields.index("key")])
        elif line["do"] == "end":
            found.discard(line["key"])
    return found


def due_in(charges: Path) -> set[str]:
    """The requests (`org/request`) that a file of the API's pending charges has not ended."""
    found: set[str] = set()
    for line in read_lines(charges):
        if line["do"] == "due":
            found.add(f"{line['due'][0]}/{line['due'][2]}")
        elif line["do"] == "end":
            found.discard("/".join(line["key"]))
    return found


@dataclass(slots=True)
class Attempt:
    """One call of a gateway. Amounts are millicredits.

    outcome: `ok`; `refused` (no, and asking again changes nothing); `failed` (no, nothing was
    done); `unknown` (it took effect once or not at all, also when the gateway died over it).
    """

    org_id: str
    request_id: str
    op: str
    amount: int
    at: float
    outcome: str = "unknown"
    answered_at: float = float("inf")
    code: str = ""
    receipt: Line | None = None
    caller: str = ""
    user_id: str = ""

    @property
    def answered(self) -> bool:
        return self.answered_at < float("inf")

    @property
    def key(self) -> tuple[str, str]:
        return self.org_id, self.request_id

    @property
    def charged(self) -> int | None:
        """What the answer says is charged for the request by now; None when it says nothing. A
        repeat that is refused says it too.
        """
        says = self.outcome == "ok" or self.code == "REPLAYED"
        if not says or not self.receipt or self.receipt["state"] == "open":
            return None
        return int(self.receipt["charged_millicredits"])


class Follower:
    """The attempts of histories that are being written: each look reads what is new."""

    def __init__(self, paths: list[Path]) -> None:
        self._read = dict.fromkeys(paths, 0)
        self._attempts: dict[tuple[Path, str], Attempt] = {}

    def look(self) -> list[Attempt]:
        """All attempts so far, in the order in which they were read."""
        for path in self._read:
            self._look(path)
        return list(self._attempts.values())

    def _look(self, path: Path) -> None:
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read[path])
            for raw in file:
                # The last line may be torn by a kill, or not be whole yet.
                if not raw.endswith(b"\n"):
                    break
                self._read[path] += len(raw)
                self._note(path, json.loads(raw))

    def _note(self, path: Path, line: Line) -> None:
        if line["what"] == "invoke":
            self._attempts[path, line["attempt"]] = Attempt(
                line["org"], line["request"], line["op"], line["amount"], line["at"],
                caller=line["attempt"].rpartition(":")[0], user_id=line.get("user", ""),
            )  # fmt: skip
        elif line["what"] == "answer":
            attempt = self._attempts[path, line["attempt"]]
            attempt.outcome, attempt.answered_at = line["outcome"], line["at"]
            attempt.code, attempt.receipt = line["code"], line.get("receipt")


def read_attempts(paths: list[Path]) -> list[Attempt]:
    """All attempts of these histories, in the order of their beginnings."""
    return sorted(Follower(paths).look(), key=lambda attempt: attempt.at)
