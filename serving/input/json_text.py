"""JSON from outside: bounded per route, without NaN, without duplicate names, with the expected fields."""

from __future__ import annotations

import json
import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from serving.http.problems import Problem

MOST_NAMES, MOST_DIFFERENT_NAMES = 200, 1000
"""Limits per object, and over all objects of a body."""
FHIR_DEPTH = 8
"""Levels needed, beyond those of other bodies, by a coding in a component of an Observation in a Bundle."""
_MARKS = b'"[]{}:'
_RECORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OTHERS = bytes(sorted({*range(256)} - {*_MARKS}))
_QUOTE, _COLON = b'":'
_OPENING, _CLOSING, _BRACES = (np.isin(np.arange(256), list(marks)) for marks in (b"[{", b"]}", b"{}"))
_KINDS = bytes(
    ord("0") if c in b"0123456789" else ord("e") if c in b"eE" else c if c == ord("+") else 32
    for c in range(256)
)
_LARGE = (b"e000", b"e+000", b"0" * 200)
"""How a number that is not finite looks when every digit is replaced by 0."""


@dataclass(frozen=True)
class Room:
    """Limits on the content of a body.

    A parsed number takes 32 bytes, a string or a container about 100. Counting them in the bytes costs a
    hundredth of parsing them, and no legitimate request comes near the limits.

    Attributes
    ----------
    depth
        Nesting depth of arrays and objects.
    values
        Number of values in arrays and objects.
    containers
        Number of arrays and objects.
    texts
        Number of strings, including the names in objects.
    """

    depth: int
    values: int
    containers: int
    texts: int


def recording_room(depth: int) -> Room:
    """Room for a recording: ten minutes of 12 leads at 500 Hz are 3.6 million values."""
    return Room(depth, values=5_000_000, containers=256, texts=1024)


def stays_room(depth: int, rows: int) -> Room:
    """Room for stays of ``rows`` hourly rows, as rows or as columns."""
    return Room(depth, values=50 * rows + 1000, containers=4 * rows + 1000, texts=50 * rows + 1000)


def fhir_room(depth: int, rows: int) -> Room:
    """Room for ``rows`` Observations, each of about 15 arrays and objects and 40 strings."""
    return Room(
        depth + FHIR_DEPTH, values=30 * rows + 1000, containers=20 * rows + 1000, texts=50 * rows + 1000
    )


def parsed(text: bytes, room: Room) -> Any:
    """Parse ``text``.

    Raises
    ------
    Problem
        ``json_too_deep``, ``body_too_large`` (more than there is room for) and ``bad_fields`` (an object with
        too many names), detected before anything is parsed; ``bad_json``: not UTF-8 or not JSON, NaN or
        Infinity, a number that is not finite, or an object with a duplicate name.
    """
    _check_counts(text, room)
    depth, names = shape(text)
    if depth > room.depth:
        raise Problem("json_too_deep", f"Arrays and objects may be {room.depth} levels deep.")
    if names > MOST_NAMES:
        raise _too_many_names()
    try:
        return json.loads(
            text.decode("utf-8-sig"),
            parse_constant=_refuse,
            # a function called for every number would take most of the time
            parse_float=_finite if _may_overflow(text) else None,
            parse_int=_integer,
            object_pairs_hook=_Objects().made,
        )
    except UnicodeDecodeError:
        raise Problem("bad_json", "The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise Problem("bad_json", f"Line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except RecursionError:
        raise Problem("json_too_deep", f"Arrays and objects may be {room.depth} levels deep.") from None


def shape(text: bytes) -> tuple[int, int]:
    """Nesting depth of arrays and objects, and the most names between two braces, ignoring strings."""
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in text else text
    marks = np.frombuffer(bare.translate(None, _OTHERS), np.uint8)
    inside = np.logical_xor.accumulate(marks == _QUOTE)
    outside = marks[~inside]
    steps = _OPENING[outside].astype(np.int8) - _CLOSING[outside]
    depth = int(np.cumsum(steps, dtype=np.int32).max(initial=0))
    names = np.flatnonzero(outside == _COLON)
    before = np.searchsorted(np.flatnonzero(_BRACES[outside]), names)
    return depth, int(np.bincount(before).max(initial=0))


def _may_overflow(text: bytes) -> bool:
    kinds = text.translate(_KINDS)
    return any(large in kinds for large in _LARGE)


def _check_counts(text: bytes, room: Room) -> None:
    for found, most, what in (
        (text.count(b","), room.values, "values"),
        (text.count(b"[") + text.count(b"{"), room.containers, "arrays and objects"),
        (text.count(b'"') // 2, room.texts, "strings"),
        (text.count(b":"), 2 * room.texts, "colons"),
        (text.count(b"\\"), room.texts, "escapes"),
    ):
        if found > most:
            raise Problem("body_too_large", f"The JSON holds more than {most} {what}.")


class _Objects:
    """Builds the objects of one text."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def made(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Build an object from its names and values."""
        found = dict(pairs)
        if len(found) < len(pairs):
            raise Problem("bad_json", "An object has the same name twice.")
        self._names.update(found)
        if len(pairs) > MOST_NAMES or len(self._names) > MOST_DIFFERENT_NAMES:
            raise _too_many_names()
        return found


def _too_many_names() -> Problem:
    return Problem(
        "bad_fields",
        f"An object has more than {MOST_NAMES} names, or all have more than {MOST_DIFFERENT_NAMES}.",
    )


def _refuse(name: str) -> NoReturn:
    raise Problem("bad_json", f"{name} is not a JSON number; write null for what was not measured.")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Problem("bad_json", "A number is too large.")
    return number


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 16 else _finite(digits)


def as_object(value: Any, allowed: Set[str], *, required: Set[str] = frozenset()) -> dict[str, Any]:
    """``value`` as an object with all ``required`` fields and only ``allowed`` ones."""
    if not isinstance(value, dict):
        raise Problem("bad_fields", "The body must be a JSON object.")
    if not allowed >= value.keys():
        raise Problem("bad_fields", f"Unknown field; the known fields are: {', '.join(sorted(allowed))}.")
    if missing := sorted(required - value.keys()):
        raise Problem("bad_fields", f"Missing: {', '.join(map(repr, missing))}.")
    return value


def record_name(value: Any, default: str) -> str:
    """A record's name as stated by the client, or the default for None."""
    if value is None:
        return default
    if not isinstance(value, str) or not _RECORD.fullmatch(value):
        raise Problem(
            "bad_fields",
            "'record' must be 1 to 64 letters, digits, underscores or hyphens (no personal data).",
        )
    return value
