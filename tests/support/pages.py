"""Pages as a reader uses them: their blocks in order, typed into a terminal.

| a block that begins with | is |
|---|---|
| `sh` | typed into the page's shell |
| `sql` | pasted into psql on the database of the shell |
| `python` | a part of the page's one program, which is run where its last part stands |
| `json`, `text` after one of these | its answer: JSON may be shortened, `...` stands for anything |
| any other language after `Save as` and a name | a file in the folder where the reader stands |
| anything else, such as `console` | shown only |
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from signal import SIGKILL
from typing import IO, Any

RUN = ("sh", "sql", "python")
ANSWERS = ("json", "text")
_COMMENT_BEHIND = re.compile(r"(?<=\S)\s+# .*")
_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_NAME = re.compile(r"Save as `([\w.-]+)`")


@dataclass
class Block:
    """One fenced block: what it is, what it says, what it must answer."""

    line: int
    language: str
    text: str
    file_name: str | None = None
    answer: Block | None = None

    @property
    def first(self) -> str:
        """The first line, without a comment that follows a command."""
        return _COMMENT_BEHIND.sub("", self.text.partition("\n")[0]).strip()


def blocks(page: str) -> list[Block]:
    """All of them, in order; answers belong to the block before them."""
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(page):
        between = page[end : match.start()]
        one = Block(page.count("\n", 0, match.start()) + 1, match[1], match[2])
        end = match.end()
        is_answer = found and not between.strip() and found[-1].language in RUN
        if is_answer and one.language in ANSWERS and found[-1].answer is None:
            found[-1].answer = one
            continue
        if one.language not in (*RUN, "console"):
            paragraph = between.rstrip().rpartition("\n\n")[2]
            named = _NAME.findall(paragraph)
            one.file_name = named[-1] if named else None
        found.append(one)
    return found


def shown(page: str) -> Iterator[Block]:
    """Blocks that nobody runs here."""
    return (one for one in blocks(page) if one.language not in RUN and one.file_name is None)


def script(page: str, outputs: Path, places: Mapping[str, str]) -> tuple[str, list[Block]]:
    """A script of bash, and the blocks that it runs. It stops at the first that fails. The output
    of each is a file in this folder, named by the number of the block; `places` are what stands in
    the page and where that is here.
    """
    every = blocks(page)
    program = "".join(one.text for one in every if one.language == "python")
    last = next((one for one in reversed(every) if one.language == "python"), None)
    lines, ran = [], []
    for one in every:
        if one.file_name is not None:
            text = moved(one.text, places)
            lines.append(_fed(f"cat >{shlex.quote(one.file_name)}", text))
        if one.language not in RUN or (one.language == "python" and one is not last):
            continue
        text = {
            "sh": one.text,
            "sql": _fed('psql -XAt -v ON_ERROR_STOP=1 "$TAXIMETER_DATABASE_URL"', one.text),
            "python": _fed("python -", program),
        }[one.language]
        output = shlex.quote(str(outputs / str(len(ran))))
        lines.append(f"{{\n{moved(text, places)}}} </dev/null >{output} 2>&1\n")
        ran.append(one)
    return "".join(lines), ran


def _fed(command: str, text: str) -> str:
    return f"{command} <<'END OF BLOCK'\n{text}END OF BLOCK\n"


def moved(text: str, places: Mapping[str, str]) -> str:
    """With each port or path of the page where it is here."""
    for place, ours in places.items():
        text = re.sub(rf"(?<![\w.-]){re.escape(place)}(?![\w-])", ours, text)
    return text


def agrees(promised: Block, answer: str) -> bool:
    """Whether this is the answer that the page shows, which may leave things out."""
    if promised.language == "json":
        try:
            return holds(json.loads(promised.text), json.loads(answer))
        except ValueError:
            return False
    if not answer.endswith("\n"):
        answer += "\n"
    return re.fullmatch("".join(map(_line, promised.text.splitlines())), answer) is not None


def holds(promised: Any, answer: Any) -> bool:
    """Whether JSON has everything that is shown of it; `"..."` is any value."""
    if promised == "...":
        return True
    if isinstance(promised, dict):
        return isinstance(answer, dict) and all(
            key in answer and holds(one, answer[key]) for key, one in promised.items()
        )
    if isinstance(promised, list):
        return (
            isinstance(answer, list)
            and len(promised) == len(answer)
            and all(map(holds, promised, answer))
        )
    return bool(promised == answer)


def _line(promised: str) -> str:
    """Words may stand further apart; dots alone are any number of lines, else any text."""
    if promised.strip() == "...":
        return r"(?:.*\n)*?"
    words = (".*".join(map(re.escape, word.split("..."))) for word in promised.split())
    return r" *" + r" +".join(words) + r" *\r?\n"


@dataclass
class Walk:
    """What a page did: the outputs of its blocks, up to the one that failed."""

    code: int
    ran: list[Block]
    outputs: list[str] = field(default_factory=list)

    def complaint(self) -> str | None:
        """What a reader would stop at: a command that fails, or an answer that is another one."""
        for number, (one, output) in enumerate(zip(self.ran, self.outputs, strict=False)):
            place = f"line {one.line}: {one.text}"
            if self.code != 0 and number == len(self.outputs) - 1:
                return f"fails with {self.code}\n{place}\n{output[-3000:]}"
            if one.answer is not None and not agrees(one.answer, output):
                return f"answers otherwise\n{place}\n{one.answer.text}\nbut:\n{output[-3000:]}"
        return f"fails with {self.code} before its first block" if self.code else None


class Terminal:
    """A shell that stays: what a page sets or starts is there for the pages after it."""

    def __init__(self, folder: Path, environment: Mapping[str, str], here: Path) -> None:
        self.folder = folder
        self._pages = 0
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=here,
            start_new_session=True,
        )
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._typed: IO[bytes] = self._shell.stdin
        self._said: IO[bytes] = self._shell.stdout

    def walk(self, page: str, places: Mapping[str, str], *, stays: bool, timeout_s: float) -> Walk:
        """Run a page. One that `stays` leaves its variables and processes to those after it; any
        other sees those and leaves nothing but what it did to the servers.
        """
        outputs = self.folder / f"page-{self._pages}"
        self._pages += 1
        outputs.mkdir()
        text, ran = script(page, outputs, places)
        path = outputs / "script"
        end = "code=$?; kill $(jobs -p) 2>/dev/null || true; wait; exit $code"
        ending = "" if stays else f"trap '{end}' EXIT\n"
        path.write_text(f"set -euo pipefail\n{ending}{text}")
        run = f". {shlex.quote(str(path))}"
        # `set -e` means nothing in a command whose result is asked for, hence the second shell's
        # own exit; a page that stays and fails takes the terminal with it.
        command = (
            f"{run}; echo 0\n"
            if stays
            else f"(mkdir {outputs}/here; cd {outputs}/here; {run}); echo $?\n"
        )
        with suppress(BrokenPipeError):
            self._typed.write(f"set +e\n{command}".encode())
            self._typed.flush()
        code = self._answer(timeout_s)
        files = [outputs / str(number) for number in range(len(ran))]
        return Walk(code, ran, [one.read_text() for one in files if one.exists()])

    def _answer(self, timeout_s: float) -> int:
        ready, _, _ = select([self._said], [], [], timeout_s)
        if not ready:
            return 124  # As of `timeout`.
        line = self._said.readline().strip()
        return int(line) if line.isdigit() else 1

    def close(self) -> None:
        """End the shell and all that was started in it, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._shell.pid, SIGKILL)
        self._shell.wait()
        self._typed.close()
        self._said.close()
