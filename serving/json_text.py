"""JSON as it comes from outside: no deep nesting, no NaN, no name twice in an object."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import numpy as np

from serving.problems import Problem

MOST_VALUES = 5_000_000
"""Each takes up to a hundred bytes once it is parsed; ten minutes of 12 leads at 500 Hz are 3.6 million."""
_IS_BRACKET = np.isin(np.arange(256), list(b"[]{}"))
_MAY_OVERFLOW = re.compile(rb"[eE]\+?\d{3}|\d{200}")


def parsed(text: bytes, depth: int) -> Any:
    """The value that ``text`` stands for.

    Raises
    ------
    Problem
        ``json_too_deep`` and ``body_too_large`` (too many values), seen before anything is parsed;
        ``bad_json``: not UTF-8 or not JSON, NaN or Infinity, a number that is not finite, or an object that
        has a name twice.
    """
    if text.count(b",") > MOST_VALUES:
        raise Problem("body_too_large", f"The JSON holds more than {MOST_VALUES} values.")
    if deeper_than(depth, text):
        raise Problem("json_too_deep", f"Arrays and objects may be {depth} levels deep.")
    try:
        return json.loads(
            text.decode("utf-8-sig"),
            parse_constant=_refuse,
            # a function called for every number takes most of the time
            parse_float=_finite if _MAY_OVERFLOW.search(text) else None,
            parse_int=_integer,
            object_pairs_hook=_object,
        )
    except UnicodeDecodeError:
        raise Problem("bad_json", "The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise Problem("bad_json", f"Line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except RecursionError:
        raise Problem("json_too_deep", f"Arrays and objects may be {depth} levels deep.") from None


def deeper_than(depth: int, text: bytes) -> bool:
    """Whether brackets outside strings nest deeper than ``depth``; takes a few times the text's memory."""
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in text else text
    codes = np.frombuffer(bare, np.uint8)
    inside = np.logical_xor.accumulate(codes == ord('"'))
    brackets = codes[_IS_BRACKET[codes] & ~inside]
    opened = np.where((brackets == ord("[")) | (brackets == ord("{")), np.int8(1), np.int8(-1))
    return bool((np.cumsum(opened, dtype=np.int32) > depth).any())


def _refuse(name: str) -> NoReturn:
    raise Problem("bad_json", f"{name} is not a number of JSON; write null for what was not measured.")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Problem("bad_json", "A number is too large.")
    return number


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 16 else _finite(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Problem("bad_json", "An object has the same name twice.")
    return found
