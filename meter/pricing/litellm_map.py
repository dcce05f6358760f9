"""Reads LiteLLM's price map (`model_prices_and_context_window.json`) as a price file of ours.

Every figure that is a price ends in the file, in the list of what cannot be metered, or keeps its
model out of the file: none is dropped without a word. Prices are exact: `1.5e-07` a token is 0.15
dollars a million.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from taximeter.meter.pricing.file_reader import dollars_of
from taximeter.meter.pricing.identity import host_of
from taximeter.meter.pricing.kinds import CAN_STAND_ALONE, KINDS
from taximeter.meter.pricing.off_peak import WHEN, off_peak_of
from taximeter.meter.pricing.price_file import PriceFileError

# Their name -> ours, and what one of theirs has to be multiplied with to be one of ours.
_TOKENS: Final[Mapping[str, str]] = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "input_cost_per_token_cache_hit": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "cache_creation_input_token_cost_above_12hr": "cache_write_12h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "input_audio",
    "output_cost_per_audio_token": "output_audio",
    "cache_read_input_audio_token_cost": "cache_read_audio",
    "cache_read_input_token_cost_per_audio_token": "cache_read_audio",
    "input_cost_per_image_token": "input_image",
    "output_cost_per_image_token": "output_image",
    "cache_read_input_image_token_cost": "cache_read_image",
    "input_cost_per_video_token": "input_video",
}
_OTHERS: Final[Mapping[str, str]] = {
    "output_cost_per_image": "image",
    "input_cost_per_request": "request",
}
_SUFFIXES: Final[Mapping[str, str]] = {
    "_priority": "priority",
    "_flex": "flex",
    "_batches": "batch",
    "_ultrafast": "ultrafast",
    "_balanced": "balanced",
    "_fast": "fast",
}
_ABOVE: Final = re.compile(r"(.+)_above_(\d+)k_tokens")
_SIZE: Final = re.compile(r"(\d{2,5})-x-(\d{2,5})")
_IS_PRICE: Final = re.compile(r"cost|price|pricing|multiplier|provider_specific_entry")
_NO_PRICE: Final = frozenset(("supports_tool_choice_cost",))
# Factors of all tokens that stand among other things: by what a usage says of where it ran, and of
# its speed.
_GEOS: Final = ("us", "eu")
_FAST: Final = "fast"
GROUNDED_PROMPT: Final = Decimal("0.035")
_MODES_OF_IMAGES: Final = ("image_generation", "image_edit")

Table = dict[str, Any]


@dataclass(slots=True)
class Imported:
    """What came of a map. `models` are tables as in a price file; `notes` say by model what is not
    metered; `left_out` says by model why it is not there.
    """

    models: dict[str, Table] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def read_map(content: bytes, *, providers: Iterable[str] = (), with_free: bool = False) -> Imported:
    """Read a map; of these providers only, where some are named. Raises PriceFileError when it is
    no such map.

    Models whose every price is 0 are left out unless `with_free`: they stand for prices that the
    map does not know, and would be free.
    """
    return read_models(parse_map(content), providers=providers, with_free=with_free)


def parse_map(content: bytes) -> dict[str, Table]:
    """The fields of each model, with prices as they are written. Raises PriceFileError when it is
    no such map.
    """
    try:
        document = json.loads(content, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise PriceFileError([f"the map is not valid JSON: {error}"]) from None
    if not isinstance(document, dict) or not all(
        isinstance(one, dict) for one in document.values()
    ):
        raise PriceFileError(["the map must be an object of models"])
    return document


def read_models(
    document: Mapping[str, Table],
    *,
    providers: Iterable[str] = (),
    with_free: bool = False,
    at: datetime | None = None,
) -> Imported:
    """The same of a map that was parsed. `at`: the prices of that moment alone, where the map has
    some of hours and days.
    """
    wanted = frozenset(providers)
    found = Imported()
    for name, fields in document.items():
        provider = str(fields.get("litellm_provider", ""))
        if name == "sample_spec" or (wanted and provider not in wanted):
            continue
        off_peak = fields.get("off_peak_pricing")
        if at is not None and off_peak is not None:
            fields = {key: value for key, value in fields.items() if key != "off_peak_pricing"}
            if off_peak_of(off_peak).holds(at):
                own = {key: value for key, value in off_peak.items() if key in _TOKENS}
                kinds = {_TOKENS[key] for key in own}
                fields = {k: v for k, v in fields.items() if _TOKENS.get(k) not in kinds} | own
        _Model(name, fields, provider).into(found, with_free)
    return found


def kinds_of(fields: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """(service tier, kind of token) that a model of the map has a price of its own for."""
    found = set()
    for name in fields:
        base, mode = _mode_of(name)
        if base in _TOKENS:
            found.add((mode, _TOKENS[base]))
    tiered = fields.get("tiered_pricing")
    for tier in tiered if isinstance(tiered, list) else ():
        found |= {("", _TOKENS[name]) for name in tier if name in _TOKENS}
    return frozenset(found)


class _Model:
    """One model of the map."""

    def __init__(self, name: str, fields: Mapping[str, Any], provider: str) -> None:
        self._name = name
        self._fields = fields
        self._provider = provider
        self._rates: dict[tuple[str, int], Table] = {}
        self._notes: list[str] = []
        self._search_once = False
        self._geos: Table = {}
        self._fast: Decimal | None = None
        self._off_peak: Table = {}

    def into(self, found: Imported, with_free: bool) -> None:
        """Add it to what was imported, or say why not."""
        try:
            self._read()
            table = self._table()
        except ValueError as error:
            found.left_out[self._name] = str(error)
            return
        prices = [value for rates in self._rates.values() for value in rates.values()]
        if CAN_STAND_ALONE.isdisjoint(table) or (self._notes and not any(prices)):
            said = ", ".join(self._notes)
            found.left_out[self._name] = f"cannot be metered: {said}" if said else "has no price"
        elif not any(prices) and not with_free:
            found.left_out[self._name] = "every price is 0"
        else:
            found.models[self._name] = table
            if self._notes:
                found.notes[self._name] = self._notes

    def _read(self) -> None:
        """Sort every price into the rates of its service tier and context size."""
        for name, value in self._fields.items():
            if not _IS_PRICE.search(name) or value is None or name in _NO_PRICE:
                continue
            if name == "tiered_pricing":
                self._tiers(value)
            elif name == "provider_specific_entry":
                self._factors(value)
            elif name == "off_peak_pricing":
                self._hours(value)
            elif "multiplier" in name:
                # A factor by where a deployment is, which no usage tells.
                self._notes += [name] if value != 1 else []
            elif name == "search_context_cost_per_query" and isinstance(value, dict):
                # The dearest size, as a usage object does not tell which one it was.
                prices = [_dollars(name, price) for price in value.values()]
                self._put("", 0, "search", max(prices, default=Decimal(0)) * 1000)
                # Google charged grounded prompts, before it charged each of their queries.
                self._search_once = (
                    host_of(self._provider) in ("google", "vertex")
                    and "gemini" in self._name
                    and self._fields.get("web_search_billing_unit") != "per_query"
                    and max(prices, default=0) >= GROUNDED_PROMPT
                )
            elif not self._one(name, value):
                self._notes.append(name)

    def _one(self, name: str, value: object) -> bool:
        base, mode = _mode_of(name)
        start = 0
        if (above := _ABOVE.fullmatch(base)) is not None:
            base, start = above[1], int(above[2]) * 1000
        if base in _TOKENS:
            self._put(mode, start, _TOKENS[base], _dollars(name, value).scaleb(6))
            return True
        if mode or start:
            return False
        what = self._fields.get("mode")
        if base == "output_cost_per_image" and "output_cost_per_image_token" in self._fields:
            return _dollars(name, value) >= 0  # The same images, counted in tokens.
        if base in _OTHERS:
            self._put("", 0, _OTHERS[base], _dollars(name, value))
        elif base == "input_cost_per_image" and what in _MODES_OF_IMAGES:
            self._put("", 0, "image", _dollars(name, value))
        elif base == "input_cost_per_pixel" and (size := _SIZE.search(self._name)):
            pixels = int(size[1]) * int(size[2])
            self._put("", 0, "image", _dollars(name, value) * pixels)
        elif base == "input_cost_per_second" and what == "audio_transcription":
            self._put("", 0, "audio_hour", _dollars(name, value) * KINDS["audio_hour"].per)
        elif base == "output_cost_per_second" and what == "audio_transcription":
            # The same seconds again, which the map names on both sides.
            return value == self._fields.get("input_cost_per_second") or _is_zero(value)
        else:
            # A price of nothing is no price that would be missed.
            return _is_zero(value)
        return True

    def _factors(self, listed: object) -> None:
        """Of one table of many things, those that are factors of a price."""
        if not isinstance(listed, dict):
            return
        for name in (*_GEOS, _FAST):
            if name in listed and (factor := _dollars(name, listed[name])) != 1:
                if name == _FAST:
                    self._fast = factor
                else:
                    self._geos[name] = factor

    def _hours(self, block: object) -> None:
        """The lower prices of some hours."""
        if not isinstance(block, dict):
            raise ValueError("off_peak_pricing is not a table")
        off_peak_of(block)
        for name, value in block.items():
            if name in WHEN:
                self._off_peak[name] = value
            elif name in _TOKENS:
                self._off_peak[_TOKENS[name]] = _dollars(name, value).scaleb(6)
            else:
                self._notes.append(f"off_peak_pricing.{name}")
        if WHEN.issuperset(self._off_peak):
            self._off_peak = {}

    def _tiers(self, listed: object) -> None:
        if not isinstance(listed, list):
            raise ValueError("tiered_pricing is not a list")
        for tier in listed:
            bounds = tier.get("range") if isinstance(tier, dict) else None
            if not isinstance(bounds, list) or not isinstance(bounds[0], (int, Decimal)):
                raise ValueError("tiered_pricing has a tier without a range")
            for name, value in tier.items():
                if name in _TOKENS:
                    self._put("", int(bounds[0]), _TOKENS[name], _dollars(name, value).scaleb(6))
                elif name != "range" and not _is_zero(value):
                    self._notes.append(f"tiered_pricing.{name}")

    def _put(self, mode: str, start: int, kind: str, dollars: Decimal) -> None:
        try:
            dollars_of(dollars)
        except ValueError as error:
            raise ValueError(f"{kind} must be {error}") from None
        self._rates.setdefault((mode, start), {})[kind] = dollars

    def _table(self) -> Table:
        table: Table = {}
        if self._provider:
            table["provider"] = self._provider
        table.update(self._at(""))
        modes = {mode: self._at(mode) for mode in sorted({mode for mode, _ in self._rates if mode})}
        if self._fast is not None and _FAST not in modes:
            modes[_FAST] = _times(self._at(""), self._fast)
        if modes:
            table["service_tiers"] = modes
        if self._geos:
            table["geos"] = self._geos
        if self._off_peak:
            table["off_peak"] = self._off_peak
        for theirs, ours in (
            ("max_input_tokens", "context_window"),
            ("max_output_tokens", "max_output"),
        ):
            value = self._fields.get(theirs)
            if isinstance(value, (int, Decimal)) and not isinstance(value, bool) and value >= 1:
                table[ours] = int(value)
        if self._search_once:
            table["search_once"] = True
        if self._notes:
            table["not_metered"] = self._notes
        return table

    def _at(self, mode: str) -> Table:
        base = dict(self._rates.get((mode, 0), {}))
        usual = self._rates.get(("", 0), {})
        tiers = []
        for found, start in sorted(self._rates):
            if found != mode or start == 0:
                continue
            tier = self._rates[found, start]
            for kind in tier.keys() - base.keys():
                # A kind that only the tier has costs below it what its parent does.
                known = {**usual, **base}
                parent = next((one for one in KINDS[kind].parents if one in known), None)
                if kind not in known and parent is None:
                    raise ValueError(f"{kind} has a price above {start} tokens only")
                base[kind] = known[kind if kind in known else str(parent)]
            tiers.append({"above": start, **tier})
        return {**base, "tiers": tiers} if tiers else base


def _times(table: Table, factor: Decimal) -> Table:
    """All prices of tokens, multiplied."""
    found: Table = {}
    for name, value in table.items():
        if name == "tiers":
            found[name] = [_times(tier, factor) for tier in value]
        elif name in KINDS and KINDS[name].side != "other":
            found[name] = value * factor
        elif name == "above":
            found[name] = value
    return found


def _mode_of(name: str) -> tuple[str, str]:
    for suffix, mode in _SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), mode
    return name, ""


def _dollars(name: str, value: object) -> Decimal:
    """A price as it stands in the map; whether it is one of ours is checked where it is put."""
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        number = Decimal(value)
        if number.is_finite() and number >= 0:
            return number
    raise ValueError(f"{name} must be a number of dollars of at least 0")


def _is_zero(value: object) -> bool:
    return isinstance(value, (int, Decimal)) and not isinstance(value, bool) and value == 0
