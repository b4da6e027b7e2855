"""JSON from outside: what is refused before and while it is parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.json_text import deeper_than, parsed
from serving.problems import Problem

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


@given(VALUES, st.booleans())
def test_depth_is_that_of_the_value_whatever_its_strings_hold(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    depth = depth_of(value)
    assert not deeper_than(depth, text)
    assert depth == 0 or deeper_than(depth - 1, text)


@pytest.mark.parametrize("text", [rb'"[[[[\"[[[["', rb'"\\\\"', rb'["\\\"[", "]"]', rb'"\\"'])
def test_brackets_in_strings_with_escapes_do_not_count(text: bytes) -> None:
    assert not deeper_than(1, text)


@pytest.mark.parametrize("number", [b"1e400", b"-1E+0999", b"9" * 250 + b"e99", b"1" + b"0" * 400, b"NaN"])
def test_numbers_that_are_not_finite_are_refused(number: bytes) -> None:
    with pytest.raises(Problem) as refused:
        parsed(b"[1.5, " + number + b"]", 3)
    assert refused.value.code == "bad_json"


def test_finite_numbers_are_read_whole() -> None:
    assert parsed(b"[0.1, -1e-7, 1.7976931348623157e308, 12345678901234567]", 1) == [
        0.1, -1e-7, 1.7976931348623157e308, 1.2345678901234568e16,
    ]  # fmt: skip
