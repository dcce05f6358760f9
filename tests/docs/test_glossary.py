"""One thing has one name: what docs/architecture.md says not to write is no identifier anywhere, in
Lua, SQL, Python and the JSON of both servers; what stands for money is named by its words, and
records have the same fields everywhere.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.sources import sources

from taximeter.api.app import create_app
from taximeter.api.settings.api import ApiSettings
from taximeter.meter.sidecar.app import openapi_document
from taximeter.meter.wire.codes import Code
from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.receipt import Receipt
from taximeter.settler.proof.consistent_cut import Live
from taximeter.settler.settling.events import Event

ROOT = Path(__file__).parents[2]
WORDS = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("\n## Words\n")[2]
WORDS = WORDS.partition("\n## ")[0]
BANNED = dict(
    (word, said)
    for words, said in re.findall(r"^- not ((?:`\w+`(?:, )?)+): ([\w ]+)", WORDS, re.MULTILINE)
    for word in re.findall(r"`(\w+)`", words)
)
DEFINED = {
    word.strip()
    for words in re.findall(r"^- \*\*(.+?)\*\*:", WORDS, re.MULTILINE)
    for word in words.split(",")
}
PACKAGES = ("meter", "settler", "api")
BESIDE_THE_GLOSSARY = {
    # Of the guide's answers and requests.
    *("remaining", "returned", "initial", "30d"),
    # Of a series that a member's row shows.
    *("by", "day"),
    # Of settings: credits per dollar, and bounds of an estimate.
    *("dollar", "cap", "floor", "overdraft"),
}
"""Words in names of amounts that are no terms of ours."""
IDS = {
    # Of the glossary: an account is (org_id, user_id), a hold and a charge are a request's.
    *("org", "user", "request", "entry", "move", "allocation", "key"),
    # Of Redis, of providers and models, of payments, and of tokens.
    *("run", "node", "last", "provider", "model", "team", "response", "payment", "invoice"),
    *("subscription", "parse", "with", "client", "trace", "purchase", "current", "call", "span"),
    # Of notices: a line of the billing history, and where they are sent.
    *("history", "receiver", "notice", "delivery", "message"),
    # Of events that could not be booked.
    "letter",
}
"""What an id is said to be of; nobody is a customer, a member or an account here."""
RECORDS = [
    ("available held applied", Live, "available held applied"),
    (
        "amount TAB account TAB progress TAB mark TAB payload",
        HoldRecord,
        "amount account progress start owner opener payload",
    ),
    ("state, reserved, charged, account", Receipt, "state reserved charged"),
    (
        "kind TAB account TAB org/request TAB amount TAB reserved TAB flags TAB payload",
        Event,
        "kind org_id user_id request_id amount reserved payload",
    ),
]
"""(what the page says, the class that reads it, the fields in which it has that); a mark is start,
owner and opener, and an account is an organisation and a user.
"""


@cache
def of_python() -> tuple[tuple[str, str], ...]:
    """Fields, arguments, and the names of classes and functions."""
    return tuple(_of_python())


def _of_python() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in sources(ROOT / package, ".py"):
            where = str(path.relative_to(ROOT))
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    yield where, node.name
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    yield where, node.target.id
                elif isinstance(node, ast.arg):
                    yield where, node.arg


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def of_lua() -> Iterator[tuple[str, str]]:
    """Every name of the code; comments and texts are not looked at."""
    for path in sorted((ROOT / "lua").rglob("*.lua")):
        text = re.sub(r"--\[\[.*?\]\]", "", path.read_text("utf-8"), flags=re.DOTALL)
        text = re.sub(r"--.*|'[^'\n]*'|\"[^\"\n]*\"", "", text)
        for name in re.findall(r"[A-Za-z_]\w*", text):
            yield str(path.relative_to(ROOT)), name


def of_sql() -> Iterator[tuple[str, str]]:
    """The blocks of the settler and of the API."""
    for package in PACKAGES:
        for path in sources(ROOT / package, ".sql"):
            for name in re.findall(r"^-- name: (\w+)", path.read_text("utf-8"), re.MULTILINE):
                yield str(path.relative_to(ROOT)), name


def of_json(node: Any) -> Iterator[str]:
    """The properties and parameters of an OpenAPI document."""
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield from node["properties"]
        if "in" in node and isinstance(node.get("name"), str):
            yield node["name"]
    for inner in node.values() if isinstance(node, dict) else node:
        if isinstance(inner, dict | list):
            yield from of_json(inner)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    settings = ApiSettings(dev_mode=True, data_dir=tmp_path_factory.mktemp("glossary"))
    return {
        "the API": set(of_json(create_app(settings).openapi())),
        "the sidecar": set(of_json(json.loads(openapi_document()))),
    }


def test_the_glossary_can_be_read() -> None:
    assert len(BANNED) >= 8
    assert {"available", "held", "hold", "pool", "allocation", "millicredit"} <= DEFINED
    assert not BANNED.keys() & DEFINED
    for word, said in BANNED.items():
        assert said in DEFINED, f"{word}: {said} is not in the glossary"


def test_no_other_word_is_used_for_a_thing_that_has_one(documents: dict[str, set[str]]) -> None:
    names = [*of_python(), *of_lua(), *of_sql()]
    names += [(where, name) for where, found in documents.items() for name in found]
    assert len(names) > 5_000, "the walk finds them"
    wrong = sorted({
        f"{where}: {name}, say {BANNED[word]}"
        for where, name in names
        for word in re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")
        if word in BANNED
    })  # fmt: skip
    assert wrong == []


def test_figures_of_a_balance_are_available_and_held(documents: dict[str, set[str]]) -> None:
    """`free` and `kept` mean other things in Python, so they are looked for where balances are."""
    figures = re.compile(r"(free|kept|on_hold)(_now|_millicredits|_credits|_amount)?")
    names = list(of_lua())
    names += [(where, name) for where, found in documents.items() for name in found]
    assert [one for one in names if figures.fullmatch(one[1])] == []
    assert "available_millicredits" in documents["the sidecar"]
    assert "held_millicredits" in documents["the sidecar"]


def of_fields() -> Iterator[tuple[str, str]]:
    """Fields of classes: of settings, of bodies and answers, of what is handed about inside."""
    for package in PACKAGES:
        for path in sources(ROOT / package, ".py"):
            for made in ast.walk(parsed(path)):
                for node in made.body if isinstance(made, ast.ClassDef) else ():
                    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                        yield str(path.relative_to(ROOT)), node.target.id


def test_fields_of_money_are_named_by_the_glossary(documents: dict[str, set[str]]) -> None:
    """`held_credits` and not `blocked_credits`: whatever counts credits says by a word of the
    glossary which they are.
    """
    units, bounds = {"credits", "millicredits"}, {"max", "min", "total"}
    stems = {word[:5] for word in re.findall(r"[a-z]{2,}", WORDS.lower())}
    names = [*of_fields(), *((where, name) for where, all in documents.items() for name in all)]
    counted, wrong = 0, set()
    for where, name in names:
        words = name.lower().strip("_").split("_")
        if units & set(words):
            counted += 1
            for word in {*words} - units - bounds - BESIDE_THE_GLOSSARY:
                if word[:5] not in stems:
                    wrong.add(f"{where}: {name}, and {word} is not in the glossary")
    assert counted > 60, "the walk finds them"
    assert sorted(wrong) == []


@pytest.mark.parametrize(("record", "kind", "fields"), RECORDS)
def test_records_have_the_same_fields_in_redis_and_in_python(
    record: str, kind: type[Any], fields: str
) -> None:
    """What docs/architecture.md and the headers of scripts say of a record, and the class that
    reads it.
    """
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("\n## Redis\n")[2]
    assert record in re.sub(r"\s+", " ", page)
    headers = " ".join(path.read_text("utf-8") for path in (ROOT / "lua").glob("*.lua"))
    words = record.replace(",", "").replace(" TAB", "")
    assert words in headers.replace(",", "") or kind is Event, "no header has the lines"
    assert set(fields.split()) <= set(kind.__annotations__)


def test_an_id_is_named_by_what_it_is_of(documents: dict[str, set[str]]) -> None:
    names = [*of_python(), *of_lua(), *of_sql()]
    names += [(where, name) for where, found in documents.items() for name in found]
    ids = [(where, name, *re.findall(r"([a-z]+)_ids?$", name.lower())) for where, name in names]
    found = {(where, name, word[0]) for where, name, *word in ids if word}
    assert {"org", "user", "request"} <= {word for *_, word in found}
    assert sorted(one for one in found if one[2] not in IDS) == []


@pytest.mark.parametrize("path", sorted((ROOT / "lua").glob("*.lua")), ids=lambda path: path.stem)
def test_headers_of_scripts_name_keys_and_fields_as_the_page_does(path: Path) -> None:
    """Each key has one record, and `meta` the fields that docs/architecture.md lists."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("\n## Redis\n")[2]
    fields = page.partition("`meta` has\n")[2].partition("\nThe mark of a hold")[0]
    header = path.read_text("utf-8").partition("]]")[0]
    for key, kind, what in re.findall(r"^KEYS\[\d+\] (\w+) +(\w+) +(.*)$", header, re.MULTILINE):
        if path.stem in ("limit", "permissions"):  # They are bound to no shard.
            continue
        line = re.search(rf"^- `(?:\{{tm:0\}})?:{key}`(?: and `:\w+`)?, (\w+)", page, re.MULTILINE)
        line = line or re.search(rf"`:{key}`, (\w+)", page)
        assert line, f"{key} is not on the page"
        assert line[1].lower() == kind
        if key == "meta":
            named = set(re.findall(r"\w+", re.sub(r"\([^)]*\)?", "", what)))
            assert named <= set(re.findall(r"\w+", fields))


def test_operations_and_codes_have_the_words_of_the_glossary() -> None:
    operations = {"reserve", "commit", "release", "charge", "touch", "expire"}
    assert operations <= DEFINED
    header = (ROOT / "lua" / "operate.lua").read_text("utf-8").partition("]]")[0]
    assert operations <= set(re.findall(r"[a-z]+", header))
    assert {code.name for code in Code} >= {"OK", "REPLAYED", "INSUFFICIENT", "TOO_MANY_HOLDS"}
