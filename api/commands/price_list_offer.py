"""Shows what a price list changes, refuses what looks broken, and takes it over."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import click
from pydantic import ValidationError

from taximeter.api.commands.common import explain
from taximeter.api.commands.price_imports import NOTES_SHOWN, report_of
from taximeter.api.commands.price_list_database import run_with_pool
from taximeter.api.commands.price_list_options import Terms
from taximeter.api.prices.changes import (
    Changes,
    Problem,
    changes_between,
    lines_of,
    problems_of,
)
from taximeter.api.prices.editions import Editions, NewList, take_over
from taximeter.api.settings.prices import PriceSettings
from taximeter.meter.pricing import PriceFileError, read_price_file
from taximeter.meter.pricing.editions import (
    Edition,
    digest_of,
    edition_at,
)
from taximeter.meter.pricing.lists import PriceLists
from taximeter.meter.pricing.package_list import list_text
from taximeter.meter.pricing.published import PublishedPrices
from taximeter.settler.books.stores import Pool

SHOWN: Final = 20


def offer(new: NewList, terms: Terms, *, back_to: int | None) -> None:
    """Show what a list changes, and take it over."""
    if terms.as_json and not (terms.yes or terms.dry_run):
        raise click.UsageError("--json needs --yes or --dry-run: it does not ask")
    now = datetime.now(UTC)
    if terms.at is not None and terms.at <= now:
        raise click.BadParameter(f"{terms.at.isoformat()} has passed", param_hint="--at")
    editions = run_with_pool(terms.database_url, lambda pool: Editions(pool, None).read())
    in_force, changes = _compared(editions, new, terms.at or now)
    problems = problems_of(
        changes,
        dated=new.dated,
        in_force_dated=in_force.dated,
        is_same=_digest(in_force) == new.digest,
    )
    refused = [
        one for one in problems if one.check not in terms.accept and one.model not in terms.accept
    ]
    found: dict[str, Any] = {
        "in_force": {"version": in_force.version, "dated": _iso(in_force.dated)},
        "new": {"version": new.version, "dated": new.dated.isoformat(), "digest": new.digest},
        "changes": changes.as_dict(),
        "problems": [one._asdict() for one in problems],
        "refused": bool(refused),
        "taken_over": None,
    }
    if new.imported is not None:
        found["not_metered"] = new.imported.notes
        found["left_out"] = new.imported.left_out
    if terms.report is not None:
        is_json = terms.report.suffix == ".json"
        text = json.dumps(found, indent=2) if is_json else "\n".join(_whole(new, changes, problems))
        write_whole(terms.report, f"{text}\n".encode())
    if not terms.as_json:
        _show(in_force, new, changes, show_all=terms.show_all, report=terms.report)
    if refused:
        _refuse(refused, found, as_json=terms.as_json)
    if terms.dry_run or not (terms.yes or click.confirm(_question(terms.at))):
        click.echo(json.dumps(found, indent=2) if terms.as_json else "nothing was taken over")
        return

    async def run(pool: Pool) -> tuple[int, datetime]:
        async with pool.acquire() as conn:
            return await take_over(
                conn, new, starts_at=terms.at, by=who_does_it(terms.by), back_to=back_to
            )

    number, starts_at = run_with_pool(terms.database_url, run)
    begins = starts_at.astimezone(UTC).isoformat()
    if terms.as_json:
        click.echo(json.dumps({**found, "taken_over": {"number": number, "starts_at": begins}}))
    else:
        click.echo(f"list {number} is in force from {begins} on; processes look every few seconds")


def _compared(editions: list[Edition], new: NewList, at: datetime) -> tuple[PriceLists, Changes]:
    """What would be in force then without the new list, and what that changes."""
    before, after = PriceLists(None), PriceLists(None)
    before.edition, _ = edition_at(editions, at.timestamp())
    after.edition = Edition(0, new.version, new.dated, at.timestamp(), new.digest, new.prices)
    return before, changes_between(before, after, at)


def _digest(lists: PriceLists) -> str:
    edition = lists.edition
    if edition is None:
        return digest_of(list_text(PublishedPrices().providers()))
    return edition.digest


def _show(
    in_force: PriceLists, new: NewList, changes: Changes, *, show_all: bool, report: Path | None
) -> None:
    click.echo(f"in force  {in_force.version}, of {_iso(in_force.dated) or 'an unknown day'}")
    click.echo(f"new       {new.version}, of {new.dated}")
    if new.imported is not None:
        for line in report_of(new.imported, None if show_all else NOTES_SHOWN):
            click.echo(line)
    click.echo(
        f"{len(changes.added)} models added, {len(changes.removed)} removed, "
        f"{len(changes.changed)} changed, {changes.same} the same"
    )
    lines = list(lines_of(changes))
    shown = lines if show_all else lines[:SHOWN]
    for line in shown:
        click.echo(line)
    if len(lines) > len(shown):
        where = f"{report} has them" if report else "--all shows them, --report FILE writes them"
        click.echo(f"  and {len(lines) - len(shown)} more; {where}")
    try:
        own = PriceSettings().price_file
        file = None if own is None else read_price_file(own)
    except ValidationError as error:
        raise click.ClickException(explain(error)) from None
    except PriceFileError as error:
        raise click.ClickException(str(error)) from None
    if own is not None and file is not None:
        count = len(file.models) + len(file.patterns)
        click.echo(f"{count} models are priced by your own file, {own.name}, all the same")


def _whole(new: NewList, changes: Changes, problems: Iterable[Problem]) -> list[str]:
    of_the_map = [] if new.imported is None else report_of(new.imported, None)
    said = (f"  {one.check:8} {one.text}" for one in problems)
    return [*of_the_map, *lines_of(changes), *said]


def _refuse(refused: list[Problem], found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        raise SystemExit(1)
    lines = [f"{one.text} ({one.check})" for one in refused[:SHOWN]]
    if len(refused) > SHOWN:
        lines.append(f"and {len(refused) - SHOWN} more; --report FILE writes them down")
    checks = sorted({one.check for one in refused})
    how = " ".join(f"--accept {check}" for check in checks)
    raise click.ClickException(
        "this list looks broken, and nothing was taken over:\n  "
        + "\n  ".join(lines)
        + f"\nIf it is right all the same: {how}, or --accept with the name of a model"
    )


def _question(at: datetime | None) -> str:
    return f"Take it over from {'now' if at is None else at.isoformat()} on?"


def who_does_it(by: str | None) -> str:
    """The name for the history: what was given, else who is logged in."""
    name = (by if by is not None else getpass.getuser()).strip()
    if not 1 <= len(name) <= 255 or not name.isprintable():
        raise click.BadParameter("must be a name of 1 to 255 characters", param_hint="--by")
    return name


def write_whole(path: Path, content: bytes) -> None:
    """Write the file whole, or not at all."""
    made = path.with_name(f".{path.name}.new")
    try:
        made.write_bytes(content)
        made.replace(path)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
