"""`taximeter prices` when something is wrong, and the settings that it shares with the services."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydantic import ValidationError

from taximeter.api.commands.prices import command
from taximeter.api.prices.followed import make_holds, make_pricer
from taximeter.api.settings.prices import PriceSettings


def run(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)), env=environment)


def test_check_names_every_mistake(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('[models]\n"a" = { input = -1 }\n"b" = { outptu = 1, output = 1 }\n')
    result = run("check", path)
    assert result.exit_code == 1
    assert 'prices.toml, line 2: model "a" input must be a number of dollars' in result.output
    assert 'prices.toml, line 3: model "b" outptu is no field' in result.output


def test_show_says_why_there_is_no_price(tmp_path: Path) -> None:
    result = run("show", "nobody-sells-this")
    assert (result.exit_code, "has no known price" in result.output) == (1, True)
    free = run("show", "nobody-sells-this", TAXIMETER_UNKNOWN_MODEL="free")
    assert "It costs nothing. A charge of 0 is recorded for each request." in free.output
    wrong = run("show", "gpt-4o", TAXIMETER_MARKUP="much")
    assert (wrong.exit_code, "TAXIMETER_MARKUP: " in wrong.output) == (1, True)
    missing = run("show", "gpt-4o", TAXIMETER_PRICE_FILE=str(tmp_path / "none.toml"))
    assert (missing.exit_code, "none.toml cannot be read" in missing.output) == (1, True)


def test_an_import_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    kept, map_file = tmp_path / "prices.toml", tmp_path / "map.json"
    kept.write_text("mine")
    for content in ("{", "{}", '{"a": {"input_cost_per_token": 0.0}}'):
        map_file.write_text(content)
        assert run("import", map_file, "-o", kept).exit_code == 1
        assert kept.read_text() == "mine"
    map_file.write_text('{"a": {"input_cost_per_token": 1e-06}}')
    assert run("import", map_file, "-o", kept).exit_code == 0
    assert kept.read_text().endswith('"a" = { input = 1 }\n')
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.json", "prices.toml"]


def test_factors_are_read_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAXIMETER_MARKUP_BY_PLAN", '{"trial": 1.1, "starter": "1.05"}')
    monkeypatch.setenv("TAXIMETER_MARKUP_BY_POWER_LEVEL", '{"eco": 0.7}')
    settings = PriceSettings()
    assert settings.markup_by_plan == {"trial": Decimal("1.1"), "starter": Decimal("1.05")}
    million = {"prompt_tokens": 10**6, "completion_tokens": 0}
    price = make_pricer(settings).price("gpt-4o", plan="trial", power_level="eco")
    assert price.cost(million) == 192_500
    monkeypatch.setenv("TAXIMETER_MARKUP_BY_PLAN", '{"golden": 2}')
    with pytest.raises(ValidationError, match="must name plans: trial, starter"):
        PriceSettings()


def test_what_is_held_comes_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_holds(PriceSettings()).policy.hold_for(10**9, 5) == 10**9
    monkeypatch.setenv("TAXIMETER_ESTIMATE_CAP_CREDITS", "2.5")
    monkeypatch.setenv("TAXIMETER_ESTIMATE_SHARE", "0.1")
    monkeypatch.setenv("TAXIMETER_ESTIMATE_FLOOR_CREDITS", "0.5")
    policy = make_holds(PriceSettings()).policy
    for estimate, total, held in (
        (10**9, 10**9, 2_500),
        (10**9, 10_000, 1_000),
        (10**9, 1_000, 500),
        (10**9, -50, 500),
        (70, 10, 70),
        (0, 0, 0),
    ):
        assert policy.hold_for(estimate, total) == held
    for name, wrong in (("SHARE", "0"), ("SHARE", "1.1"), ("CAP_CREDITS", "0.0001")):
        with monkeypatch.context() as patch:
            patch.setenv(f"TAXIMETER_ESTIMATE_{name}", wrong)
            with pytest.raises(ValidationError):
                PriceSettings()


@pytest.mark.slow
def test_rounding_says_which_models_cost_more_by_it_and_what_would_mend_that() -> None:
    one = ("rounding", "--prompt-tokens", 1, "--output-tokens", 0, "--json")
    found = json.loads(run(*one, TAXIMETER_MARKUP="2").output)
    mini = next(each for each in found["rounded"] if each["model"] == "openai/gpt-4o-mini")
    # 0.15 dollars a million, twice: 0.03 millicredits.
    assert mini["exact_millicredits"] == pytest.approx(0.03)
    assert (mini["charged_millicredits"], round(mini["more"], 2)) == (1, 32.33)
    # With so many credits a dollar the exact cost is ten millicredits, of which one is a tenth.
    assert mini["credits_per_dollar_needed"] == pytest.approx(100 * 10 / 0.03)
    usual = run("rounding", TAXIMETER_CREDITS_PER_DOLLAR="10000").output.splitlines()
    assert usual[0] == "a request of 500 prompt and 100 output tokens, 10000 credits a dollar"
    assert usual[1].startswith("0 of ")
    table = run("rounding", "--credits-per-dollar", 100).output
    assert "openai/text-embedding-3-small" in table
    assert "1,000 credits a dollar" in table


def test_the_report_of_an_import_is_whole_on_request_and_as_a_file(tmp_path: Path) -> None:
    """Every model that is left out or metered in part, with what of it, however many there are."""
    partly = {"input_cost_per_token": 1e-06, "file_search_cost_per_1k_calls": 0.0025}
    models = {f"partly-{n}": partly for n in range(30)}
    models |= {f"queries-{n}": {"input_cost_per_query": 0.002} for n in range(500)}
    models |= {f"nothing-{n}": {"input_cost_per_token": 0.0} for n in range(60)}
    map_file, report = tmp_path / "map.json", tmp_path / "report.txt"
    map_file.write_text(json.dumps(models))
    shown = run("import", map_file, "-o", tmp_path / "out.toml", "--report", report).output
    assert f"the whole report is in {report}" in shown
    assert "and 20 more; --all shows them, --report FILE writes them down" in shown
    assert "and 550 more; --all" in shown
    assert "partly-29" not in shown
    whole = run("import", map_file, "-o", tmp_path / "out.toml", "--all").output.splitlines()[1:]
    assert report.read_text().splitlines() == whole
    assert len(whole) == 2 + 590
    assert whole[0] == "30 of them also have prices that are NOT METERED here:"
    assert whole[30] == "  partly-29: file_search_cost_per_1k_calls"
    assert whole[31] == "560 models were left out:"
    assert whole[531] == "  queries-499: cannot be metered: input_cost_per_query"
    assert whole[-1] == "  nothing-59: every price is 0"
