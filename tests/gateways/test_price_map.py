"""LiteLLM's own price map as an import: every price in it is charged, or said not to be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

import pytest

from taximeter.api.prices import diff as prices_diff
from taximeter.meter.pricing import Pricer
from taximeter.meter.pricing.file_text import price_file_text
from taximeter.meter.pricing.litellm_map import read_map

MILLICREDITS_PER_DOLLAR = 100_000
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.timeout(600)
def test_the_map_that_litellm_ships(litellm_python: Path, tmp_path: Path) -> None:
    name = "model_prices_and_context_window_backup.json"
    [file] = litellm_python.parents[1].glob(f"lib/*/site-packages/litellm/{name}")
    charged = compare(file, tmp_path)
    assert charged > 2_000
    # Where the two differ is in docs/prices.md; what is sold plainly must not drift apart unseen.
    # Of an older map than docs/prices-diff.md is about, which differs in what was mended since.
    found = prices_diff.compare(Pricer(), file.read_bytes(), NOON)
    assert found.models - found.only_map > 1_000
    assert found.compared > 4_000
    assert found.agreement > 0.97


def compare(file: Path, tmp_path: Path) -> int:
    """Import the map and charge by it; how many models were compared with the map itself."""
    found = read_map(file.read_bytes())
    shipped = json.loads(file.read_bytes(), parse_float=Decimal)
    assert {*found.models, *found.left_out} == shipped.keys() - {"sample_spec"}
    assert all(found.left_out.values())
    path = tmp_path / "prices.toml"
    path.write_text(price_file_text(found.models, "Imported"))
    pricer = Pricer(price_file=path)
    compared = 0
    for model in found.models:
        fields = shipped[model]
        prices = [fields.get(f"{side}_cost_per_token") for side in ("input", "output")]
        if None in prices or "off_peak_pricing" in fields:  # The hour decides.
            continue
        if fields.get("tiered_pricing") or "input_cost_per_request" in fields:
            continue
        usage = {"prompt_tokens": 7_001, "completion_tokens": 3_001}
        price = pricer.price(model)
        assert price.source == "override"
        exact = sum(Decimal(one) * count for one, count in zip(prices, usage.values(), strict=True))
        rounded = (exact * MILLICREDITS_PER_DOLLAR).to_integral_value(ROUND_CEILING)
        assert price.cost(usage) == rounded, model
        compared += 1
    return compared


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.timeout(600)
def test_the_logger_finds_what_was_imported(litellm_python: Path, tmp_path: Path) -> None:
    """It sends the name without the host, and the host beside it."""
    name = "model_prices_and_context_window_backup.json"
    [file] = litellm_python.parents[1].glob(f"lib/*/site-packages/litellm/{name}")
    models = read_map(file.read_bytes()).models
    path = tmp_path / "prices.toml"
    path.write_text(price_file_text(models, "Imported"))
    pricer = Pricer(price_file=path)
    hosts = {"vertex_ai", *(fields.get("provider") for fields in models.values())}
    prefixed = [name.partition("/") for name in models if name.partition("/")[0] in hosts]
    assert len(prefixed) > 3_000
    wrong = []
    for host, _, rest in prefixed:
        written, found = pricer.price(f"{host}/{rest}"), pricer.price(rest, provider=host)
        if (found.source, found.parts, found.rates) != ("override", written.parts, written.rates):
            wrong.append(f"{host}/{rest}")
    assert wrong == []
