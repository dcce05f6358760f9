"""`taximeter partitions` as an operator runs it."""

from __future__ import annotations

import datetime as dt
import os

from support.forked import run_forked
from support.servers import run_sql

MONTHS = ("2025-01-15", "2025-02-15", "2025-04-15")


def partitions(database_url: str, *arguments: str, answer: str = "") -> tuple[int, str]:
    """Exit code and everything that was said."""
    environment = {**os.environ, "TAXIMETER_DATABASE_URL": database_url, "COLUMNS": "200"}
    return run_forked("partitions", *arguments, environment=environment, entered=answer)


def fill(database_url: str) -> None:
    for day in MONTHS:
        run_sql(database_url, f"SELECT taximeter.make_attribution_month('{day}')")
        run_sql(
            database_url,
            "INSERT INTO credit_usage_attribution"
            " (org_id, user_id, service_type, credits_used, created_at)"
            f" SELECT 'org', 'ann', 'by_hand', 1500, '{day} 12:00+00' FROM generate_series(1, 3)",
        )


def test_old_months_are_listed_and_dropped(database_url: str) -> None:
    fill(database_url)
    code, told = partitions(database_url, "list")
    assert code == 0, told
    assert "2025-01" in told
    assert "4.500 credits" in told
    assert "attribution_2025_01" in told

    code, told = partitions(database_url, "drop", "--before", "2025-04", "--dry-run")
    assert code == 0, told
    assert told.splitlines() == [
        "2025-01: 3 rows",
        "2025-02: 3 rows",
        "nothing was dropped: this was a dry run",
    ]
    code, told = partitions(database_url, "drop", "--before", "2025-04", answer="n\n")
    assert code == 1
    assert "Drop the rows of 2 months for good?" in told
    assert "dropped" not in partitions(database_url, "list")[1]

    code, told = partitions(database_url, "drop", "--before", "2025-04", "--yes")
    assert code == 0, told
    assert "2025-02: dropped 3 rows" in told
    code, told = partitions(database_url, "list")
    lines = {line[:7]: line for line in told.splitlines()}
    assert lines["2025-01"].endswith("0 rows  dropped")
    assert "4.500 credits" in lines["2025-01"], "totals stay"
    assert lines["2025-04"].endswith("3 rows  attribution_2025_04")
    code, told = partitions(database_url, "drop", "--before", "2025-04", "--yes")
    assert (code, told) == (0, "there is nothing before 2025-04\n")


def test_what_cannot_be_dropped_is_refused_by_name(database_url: str) -> None:
    this_month = dt.datetime.now(dt.UTC).date()
    for before, words in (
        ("yesterday", "'yesterday' is not a month, such as 2026-05"),
        ("2026-13", "'2026-13' is not a month"),
        (f"{this_month:%Y-%m}", "this month and the last one stay"),
        ("9999-12", "this month and the last one stay"),
    ):
        code, told = partitions(database_url, "drop", "--before", before, "--yes")
        assert code == 2, told
        assert "--before" in told
        assert words in told


def test_a_database_that_is_away_is_an_error_and_no_traceback() -> None:
    code, told = partitions("postgresql://nobody@127.0.0.1:1/none", "list")
    assert code == 1
    assert told.startswith("Error: ")
