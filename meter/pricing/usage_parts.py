"""Splits the totals of a usage object into kinds: what was cached, audio, reasoning and so on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from taximeter.meter.pricing.kinds import TOKENS_MAX


def count_of(usage: Mapping[str, object], *names: str) -> int:
    """The first of these that is there: anything that is not a sane count reads as none. 12.0 is
    12: some languages have no other numbers.
    """
    for name in names:
        value = usage.get(name)
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            return 0
        return min(value, TOKENS_MAX)
    return 0


def first_told(usage: Mapping[str, object], *names: str) -> int:
    """The first of these that is not nothing: gateways write 0 into fields that they do not use."""
    return next((found for name in names if (found := count_of(usage, name))), 0)


def part_of(usage: Mapping[str, object], *names: str) -> Mapping[str, object]:
    """The first object under one of these names; an empty one where there is none."""
    for name in names:
        value = usage.get(name)
        if isinstance(value, Mapping):
            return value
    return {}


def plain(prompt: int, output: int) -> tuple[dict[str, int], dict[str, int]]:
    """Totals without parts."""
    return ({"input": prompt} if prompt else {}), ({"output": output} if output else {})


def split_prompt(
    total: int,
    details: Mapping[str, object],
    *,
    cached: int,
    written: int,
    written_1h: int,
    written_12h: int = 0,
) -> dict[str, int]:
    """The kinds of a prompt. A part that is larger than the whole is no part; of parts that overlap
    the cheapest gives way, so that no contradiction makes a request cheaper.
    """
    media = {
        name: _within(count_of(details, f"{name}_tokens"), total)
        for name in ("audio", "image", "video")
    }
    cached, written = _within(cached, total), _within(written, total)
    written_12h = min(written_12h, written)
    written_1h = min(written_1h, written - written_12h)
    cached_details = part_of(details, "cached_tokens_details")
    cached_audio = min(count_of(cached_details, "audio_tokens"), cached, media["audio"])
    cached_image = min(
        count_of(cached_details, "image_tokens"), cached - cached_audio, media["image"]
    )
    cached_video = min(
        count_of(cached_details, "video_tokens"),
        cached - cached_audio - cached_image,
        media["video"],
    )
    kinds = {
        "cache_read": cached - cached_audio - cached_image - cached_video,
        "cache_read_audio": cached_audio,
        "cache_read_image": cached_image,
        "cache_read_video": cached_video,
        "cache_write": written - written_1h - written_12h,
        "cache_write_1h": written_1h,
        "cache_write_12h": written_12h,
        "input_audio": media["audio"] - cached_audio,
        "input_image": media["image"] - cached_image,
        "input_video": media["video"] - cached_video,
    }
    return _with_rest(kinds, "input", total, kinds)


def split_output(total: int, details: Mapping[str, object]) -> dict[str, int]:
    """The kinds of an output, in the same way."""
    kinds = {
        "output_audio": _within(count_of(details, "audio_tokens"), total),
        "output_image": _within(count_of(details, "image_tokens"), total),
        "reasoning": _within(count_of(details, "reasoning_tokens"), total),
    }
    return _with_rest(kinds, "output", total, reversed(kinds))


def _within(part: int, total: int) -> int:
    return part if part <= total else 0


def _with_rest(
    kinds: dict[str, int], rest: str, total: int, gives_way: Iterable[str]
) -> dict[str, int]:
    surplus = sum(kinds.values()) - total
    for name in gives_way:
        if surplus <= 0:
            break
        cut = min(surplus, kinds[name])
        surplus -= cut
        kinds = {**kinds, name: kinds[name] - cut}
    kinds = {**kinds, rest: total - sum(kinds.values())}
    return {name: count for name, count in kinds.items() if count}


def modalities(usage: Mapping[str, object], *names: str) -> dict[str, int]:
    """Gemini's lists of tokens by modality, summed up. Pages of a document are seen as images."""
    found: dict[str, int] = {}
    lists = (listed for name in names if isinstance(listed := usage.get(name), list))
    for one in chain.from_iterable(lists):
        if isinstance(one, Mapping) and isinstance(modality := one.get("modality"), str):
            kind = "image_tokens" if modality == "DOCUMENT" else f"{modality.lower()}_tokens"
            found[kind] = found.get(kind, 0) + count_of(one, "tokenCount", "token_count")
    return found


class Written(NamedTuple):
    """Tokens that were written to a cache, and those of them that are kept for longer."""

    written: int
    written_1h: int = 0
    written_12h: int = 0


def written_of(usage: Mapping[str, object], details: Mapping[str, object]) -> Written:
    """What was written to a cache, by how long it is kept: Anthropic's and LiteLLM's names, and
    those of OpenAI's responses.
    """
    split = part_of(usage, "cache_creation") or part_of(
        details, "cache_creation_token_details", "cache_write_tokens_details"
    )
    for_an_hour = count_of(split, "ephemeral_1h_input_tokens")
    for_half_a_day = count_of(split, "ephemeral_12h_input_tokens", "ttl_12h_tokens")
    short = (
        count_of(split, "ephemeral_5m_input_tokens"),
        count_of(split, "ephemeral_30m_input_tokens", "ttl_30m_tokens"),
    )
    written = first_told(
        {**details, **usage},
        "cache_creation_input_tokens",
        "cache_write_tokens",
        "cache_creation_tokens",
    )
    written = max(written, for_an_hour + for_half_a_day + sum(short))
    return Written(written, for_an_hour, for_half_a_day)
