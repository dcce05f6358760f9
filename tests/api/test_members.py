"""A body keeps its bytes but for what is changed in it, and is read as one thing only."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taximeter.api.openai.json_members import parse_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=6), st.sampled_from([None, 1, "\t"]))
def test_it_reads_what_the_parser_reads(document: dict[str, Any], indent: int | str | None) -> None:
    text = json.dumps(document, indent=indent, allow_nan=True)
    if "Infinity" in text:
        return
    found = parse_object(text)
    assert found.values == json.loads(text)
    assert found.text({}) == text


@given(st.dictionaries(st.text(min_size=1), VALUES, min_size=2, max_size=6), VALUES)
def test_a_change_changes_one_member(document: dict[str, Any], value: Any) -> None:
    text = json.dumps(document)
    if "Infinity" in text or "Infinity" in json.dumps(value):
        return
    name, *others = document
    found = json.loads(parse_object(text).text({name: value}))
    expected = {other: document[other] for other in others}
    assert found == (expected if value is None else {**expected, name: value})


def test_what_is_not_changed_keeps_its_bytes() -> None:
    text = (
        '{"a" : 1.50,\\n "big": 123456789012345678901234567890, "e": 1E400, '
        '"u": "\\u00e9\\/", "x": {"y": 1.0, "y": 2}}'
    )
    text = text.replace("\\n", "\n").replace("\\\\", "\\")
    changed = parse_object(text).text({"new": True, "a": None})
    for part in ('"e": 1E400', '{"y": 1.0, "y": 2}', "123456789012345678901234567890", '\\/"'):
        assert part in changed
    assert changed.endswith(',"new":true}')
    assert '"a"' not in changed


BAD = [
    "",
    "[]",
    "nul",
    "{",
    "{}x",
    '{"a"}',
    '{"a":}',
    '{"a":1,}',
    '{"a":1 "b":2}',
    "{1:2}",
    "{a:1}",
    '{"a":NaN}',
    '{"a":[-Infinity]}',
    '{"a":1,"a":1}',
    '{"model":1,"\\u006dodel":2}',
    '{"a":"\n"}',
    '{"a":' + "[" * 100_000,
    '{"' + "a" * 100_000,
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_object(text)
