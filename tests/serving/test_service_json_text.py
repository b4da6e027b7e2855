"""Untrusted JSON: what is refused before and during parsing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy.vocabulary import NAMES
from serving.http.problems import Problem
from serving.input.json_text import Room, parsed, recording_room, shape, stays_room

ROOM = Room(3, 100, 10, 10)

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


def most_names(value: Any) -> int:
    """The most names of an object that holds no other."""
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    most = max(map(most_names, inner), default=0)
    alone = isinstance(value, dict) and not any(isinstance(v, dict | list) for v in value.values())
    return max(most, len(value)) if alone else most


@given(VALUES, st.booleans())
def test_depth_is_that_of_the_value_whatever_its_strings_hold(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    depth, names = shape(text)
    assert depth == depth_of(value)
    assert names >= most_names(value)


@pytest.mark.parametrize("text", [rb'"[[[[\"[[[["', rb'"\\\\"', rb'["\\\"[", "]"]', rb'"\\"'])
def test_brackets_in_strings_with_escapes_do_not_count(text: bytes) -> None:
    assert shape(text)[0] <= 1


@pytest.mark.parametrize("number", [b"1e400", b"-1E+0999", b"9" * 250 + b"e99", b"1" + b"0" * 400, b"NaN"])
def test_numbers_that_are_not_finite_are_refused(number: bytes) -> None:
    with pytest.raises(Problem) as refused:
        parsed(b"[1.5, " + number + b"]", ROOM)
    assert refused.value.code == "bad_json"


def test_finite_numbers_are_read_whole() -> None:
    assert parsed(b"[0.1, -1e-7, 1.7976931348623157e308, 12345678901234567]", ROOM) == [
        0.1, -1e-7, 1.7976931348623157e308, 1.2345678901234568e16,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"[" + b"1," * 101 + b"1]", "body_too_large"),
        (b"[" + b"[]," * 10 + b"1]", "body_too_large"),
        (b"[" + b'"",' * 11 + b"1]", "body_too_large"),
        (b'"' + b":" * 21 + b'"', "body_too_large"),
        (b'"' + rb"\n" * 11 + b'"', "body_too_large"),
        (b"[[[[]]]]", "json_too_deep"),
    ],
)
def test_more_than_there_is_room_for_is_refused(text: bytes, code: str) -> None:
    with pytest.raises(Problem) as refused:
        parsed(text, ROOM)
    assert refused.value.code == code


@pytest.mark.parametrize("nested", [False, True])
def test_objects_of_absurdly_many_names_are_refused(nested: bool) -> None:
    room = stays_room(8, 20_000)
    many = {f"k{number}": {} if nested else 1 for number in range(60_000)}
    with pytest.raises(Problem) as refused:
        parsed(json.dumps(many).encode(), room)
    assert refused.value.code == "bad_fields"
    different = [{f"k{row}-{number}": 1 for number in range(100)} for row in range(11)]
    with pytest.raises(Problem) as refused:
        parsed(json.dumps(different).encode(), room)
    assert refused.value.code == "bad_fields"
    assert parsed(json.dumps(different[:10]).encode(), room) == different[:10]


def test_there_is_room_for_the_largest_good_request() -> None:
    row = dict.fromkeys([*NAMES, "SepsisLabel"], 1) | {"patient_id": "a:b:c", "hospital": "A"}
    rows = [row] * 5000
    columns = {name: [value] * 5000 for name, value in row.items()}
    for value in (rows, {"rows": rows}, {"columns": columns}, {"stays": [{"columns": columns}]}):
        assert parsed(json.dumps(value).encode(), stays_room(8, 5000)) == value
    signal = {"signal": [[0] * 300_000] * 12, "leads": ["I"] * 12}
    assert parsed(json.dumps(signal).encode(), recording_room(8)) == signal
