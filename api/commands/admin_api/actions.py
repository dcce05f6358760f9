"""Makes a command from a line that says which route it calls, and with which arguments."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from taximeter.api.commands.admin_api.caller import REFUSED, URL_DEFAULT, Caller, Request
from taximeter.api.commands.admin_api.shown import show_fields, show_json, show_rows
from taximeter.meter.wire.credits import credits_of, exact_millicredits, fits

PAGE_MAX: Final = 100
CHOICES_SHOWN_MAX: Final = 12
_AMOUNT_DIGITS_MAX: Final = 30


class Amount(click.ParamType[float]):
    """A decimal number with at most so many decimals; becomes the JSON number that says it."""

    name = "amount"

    def __init__(self, decimals: int, *, least: int | None = None) -> None:
        self._decimals, self._least = decimals, least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        try:
            number = Decimal(value) if len(value) <= _AMOUNT_DIGITS_MAX else Decimal("NaN")
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or not fits(number, self._decimals):
            self.fail(f"must be a number with at most {self._decimals} decimals", param, ctx)
        if self._least is not None and number < self._least:
            self.fail(f"must be at least {self._least}", param, ctx)
        millis = exact_millicredits(number)
        assert millis is not None
        return credits_of(millis)


class Moment(click.ParamType[str]):
    """An ISO 8601 date and time; UTC unless it says otherwise."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail("must be a date such as 2027-01-31 or 2027-01-31T12:00:00Z", param, ctx)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat()


CREDITS: Final = Amount(3)
DOLLARS: Final = Amount(2, least=0)
MOMENT: Final = Moment()
DAY: Final = click.DateTime(["%Y-%m-%d"])
NOTHING: Final = "null"
"""What takes away the end of something: `--expires null`."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the query or of the body. `option` is what it is called here: an argument if it is
    written in capitals. Fields that are left out are not sent; `nullable` ones take `null`.
    """

    name: str
    option: str
    kind: Any = click.STRING
    help: str = ""
    required: bool = False
    nullable: bool = False
    many: bool = False
    default: Any = None
    flag: Any = None
    """What the option means when it is given, for one without a value."""

    @property
    def is_argument(self) -> bool:
        return self.option.isupper()


Preview = Callable[[Caller, Mapping[str, Any], Mapping[str, Any]], None]
"""Shows what stands before, and would after: the caller, the arguments of the path, the body."""


@dataclass(frozen=True, slots=True)
class Action:
    """A command of `group` that calls one route. Names in braces of `path` are arguments of the
    command. `rows` is the list in the answer that is shown, by `columns`; `fixed` is sent as it is.
    """

    group: str
    name: str
    help: str
    method: str
    path: str
    fields: tuple[Field, ...] = ()
    rows: str | None = None
    columns: tuple[str, ...] = ()
    fixed: Mapping[str, Any] | None = None
    keyed: bool = False
    """Takes an Idempotency-Key."""
    repeatable: bool = True
    asked_again: str = "the same command again takes effect once"
    preview: Preview | None = None
    paged: bool = False
    totals: tuple[str, ...] = ()
    """Fields that stand below the list."""
    answers_503: bool = False
    """Its 503 is an answer as well: that something is not well."""
    is_file: bool = False
    """Its answer is a file, which is written as it comes."""

    @property
    def arguments(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)


def make_command(action: Action) -> click.Command:
    """The command, with options for output, for pages, and for a dry run where it moves credits."""

    def run(api_url: str, form: str = "", **given: Any) -> None:
        with Caller(api_url) as caller:
            _run(action, caller, form, given)

    return click.Command(action.name, params=list(_params(action)), callback=run, help=action.help)


def _params(action: Action) -> Iterator[click.Parameter]:
    for name in action.arguments:
        yield click.Argument([name], metavar=name.removesuffix("_id").upper())
    for field in action.fields:
        if field.is_argument:
            yield click.Argument(
                [_parameter(field)], metavar=field.option, type=field.kind, required=field.required
            )
        elif field.flag is not None:
            yield click.Option(
                [f"--{field.option}", _parameter(field)], is_flag=True, help=field.help
            )
        else:
            yield click.Option(
                [f"--{field.option}", _parameter(field)],
                type=_OrNull(field.kind) if field.nullable else field.kind,
                required=field.required,
                multiple=field.many,
                default=field.default,
                show_default=field.default is not None,
                help=field.help,
                metavar=_metavar(field),
            )
    if action.paged:
        yield click.Option(
            ["--limit"], type=click.IntRange(1), default=50, show_default=True,
            help="How many to show at most.",
        )  # fmt: skip
        yield click.Option(["--all", "everything"], is_flag=True, help="Show all of them.")
    if action.keyed:
        yield click.Option(
            ["--idempotency-key"],
            help="A key of your own: who sends it again changes nothing more. Made up by default.",
        )
    if action.method != "GET":
        shown = "what stands before and after" if action.preview else "what would be sent"
        yield click.Option(["--dry-run"], is_flag=True, help=f"Show {shown}; send nothing.")
    if action.is_file:
        yield click.Option(
            ["--output", "-o"], type=click.Path(dir_okay=False, path_type=Path), required=True,
            help="Where to write it: it has this name when it is whole, in place of an older one.",
        )  # fmt: skip
    else:
        yield click.Option(
            ["--format", "form"], type=click.Choice(["table", "json"]), default="table",
            show_default=True, help="For people, or for programs.",
        )  # fmt: skip
    yield click.Option(
        ["--api-url"], envvar="TAXIMETER_API_URL", default=URL_DEFAULT, show_default=True,
        show_envvar=True, help="Where the admin API is.",
    )  # fmt: skip


def _metavar(field: Field) -> str | None:
    """A word for choices that would fill lines; who gives another one is told all of them."""
    if isinstance(field.kind, click.Choice) and len(field.kind.choices) > CHOICES_SHOWN_MAX:
        return field.option.upper()
    return None


class _OrNull(click.ParamType[Any]):
    """What another type takes, or the word null."""

    def __init__(self, kind: click.ParamType[Any]) -> None:
        self._kind, self.name = kind, kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return NOTHING if value == NOTHING else self._kind.convert(value, param, ctx)


def _parameter(field: Field) -> str:
    return f"field_{field.name}"


def _run(action: Action, caller: Caller, form: str, given: Mapping[str, Any]) -> None:
    in_path = {name: given[name] for name in action.arguments}
    sent: dict[str, Any] = dict(action.fixed or {})
    for field in action.fields:
        value = given[_parameter(field)]
        if field.flag is not None:
            value = field.flag if value else None
        elif isinstance(value, datetime):
            value = value.date().isoformat()
        if value is None or value == ():
            continue
        sent[field.name] = None if value is NOTHING else list(value) if field.many else value
    path = action.path.format(**{name: quote(text, safe="") for name, text in in_path.items()})
    if given.get("dry_run"):
        if action.preview is not None:
            action.preview(caller, in_path, sent)
        click.echo(f"would send {action.method} {path} {json.dumps(sent, ensure_ascii=False)}")
        click.echo("nothing was sent: this was a dry run", err=True)
        return
    if action.paged:
        most = None if given["everything"] else given["limit"]
        _show_pages(action, caller, path, sent, form, most)
        return
    if action.is_file:
        length = caller.save(Request(action.method, path, query=sent), given["output"])
        click.echo(f"{given['output']}: {length:,} bytes", err=True)
        return
    in_query = action.method in {"GET", "DELETE"}
    key = (given["idempotency_key"] or f"cli-{uuid.uuid4()}") if action.keyed else None
    again = f"the same command with --idempotency-key {key} takes effect once"
    answer = caller.ask(
        Request(
            action.method,
            path,
            query=sent if in_query else {},
            body=sent if action.fields and not in_query else None,
            idempotency_key=key,
            repeatable=action.repeatable,
            asked_again=action.asked_again if key is None else again,
            answers_503=action.answers_503,
        )
    )
    if form == "json":
        show_json(answer)
    elif action.rows is None:
        show_fields(answer)
    else:
        _show_list(action, answer[action.rows], answer)
    if action.answers_503 and answer.get("status") != "ok":
        click.get_current_context().exit(REFUSED)


def _show_list(action: Action, rows: list[Any], answer: Mapping[str, Any]) -> None:
    show_rows(rows, action.columns)
    if action.totals:
        show_fields({name: answer.get(name) for name in action.totals})


def _show_pages(
    action: Action,
    caller: Caller,
    path: str,
    query: Mapping[str, Any],
    form: str,
    most: int | None,
) -> None:
    """Page after page: by `next` where there is one, which what comes meanwhile does not move."""
    assert action.rows is not None
    rows: list[Any] = []
    place: dict[str, Any] = {}
    while True:
        limit = PAGE_MAX if most is None else min(PAGE_MAX, most - len(rows))
        answer = caller.ask(Request("GET", path, {**query, **place, "limit": limit}))
        page = answer[action.rows]
        rows += page
        is_last = len(page) < limit if "next" not in answer else answer["next"] is None
        if is_last or (most is not None and len(rows) >= most):
            break
        place = {"cursor": answer["next"]} if "next" in answer else {"offset": len(rows)}
    if form == "json":
        show_json({action.rows: rows})
        return
    _show_list(action, rows, answer)
    if not is_last:
        click.echo(f"the first {len(rows)}; --all shows all of them", err=True)
