"""Plain data to typed data: what is accepted, and the location and fault of what is not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from ibt_deploy.types import checked, is_within


@dataclass(frozen=True)
class Lead:
    name: str
    gain: Annotated[float, "(0, inf)"] = 1.0


@dataclass(frozen=True)
class Device:
    kind: Literal["cart", "holter"]
    leads: tuple[Lead, ...]
    shape: tuple[int | str, ...] = ()
    counts: dict[str, Annotated[int, "[0, inf)"]] = field(default_factory=dict)
    offset: float = 0.0
    main: Lead = field(default_factory=lambda: Lead("II"))


GOOD: dict[str, Any] = {
    "kind": "cart",
    "leads": [{"name": "I", "gain": 2}],
    "shape": ["batch", 12],
    "counts": {"train": 3},
}


def test_plain_data_become_typed_data() -> None:
    found = checked(GOOD, Device)
    assert found == Device("cart", (Lead("I", 2.0),), ("batch", 12), {"train": 3})
    assert type(found.leads[0].gain) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "pump"}, "kind: 'pump' is not one of 'cart', 'holter'"),
        ({"kind": ["cart"]}, "kind: ['cart'] is not one of 'cart', 'holter'"),
        ({"leads": "I"}, "leads: a list is expected, not 'I'"),
        ({"leads": ["I"]}, "leads[0]: a table is expected, not 'I'"),
        ({"leads": [{"gain": 1.0}]}, "leads[0].name is missing"),
        ({"leads": [{"name": "I", "gain": 0}]}, "leads[0].gain: 0.0 is not in (0, inf)"),
        ({"leads": [{"name": "I", "gain": True}]}, "leads[0].gain: float is expected, not True"),
        ({"leads": [{"name": 1}]}, "leads[0].name: str is expected, not 1"),
        ({"shape": [1.5]}, "shape[0]: int | str is expected, not 1.5"),
        ({"shape": [True]}, "shape[0]: int | str is expected, not True"),
        ({"counts": {"test": -1}}, "counts.test: -1 is not in [0, inf)"),
        ({"counts": {"test": 1.0}}, "counts.test: int is expected, not 1.0"),
        ({"counts": [1]}, "counts: a table is expected, not [1]"),
        ({"offset": math.nan}, "offset: nan is not in (-inf, inf)"),
        ({"offset": -math.inf}, "offset: -inf is not in (-inf, inf)"),
        ({"offset": 10**400}, "offset: inf is not in (-inf, inf)"),
        ({"offset": None}, "offset: float is expected, not None"),
        ({"offsets": 1}, "offsets: unknown key; known are kind, leads, shape, counts, offset, main"),
        ({"main": {"name": "V1", "x": 1}}, "main.x: unknown key; known are name, gain"),
    ],
)
def test_a_fault_is_refused_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        checked(GOOD | change, Device)
    assert str(refused.value) == message


def test_unknown_keys_may_be_ignored_at_every_depth() -> None:
    more = GOOD | {"colour": "red", "main": {"name": "V1", "colour": "red"}}
    assert checked(more, Device, ignore_unknown=True).main == Lead("V1")


@pytest.mark.parametrize(
    ("number", "interval", "inside"),
    [
        (0, "[0, 1)", True),
        (1, "[0, 1)", False),
        (0, "(0, 1]", False),
        (1, "(0, 1]", True),
        (1e9, "[0, inf)", True),
        (math.inf, "[0, inf)", False),
        (math.nan, "[0, inf)", False),
        (math.nan, "(-inf, inf)", False),
    ],
)
def test_intervals(number: float, interval: str, inside: bool) -> None:
    assert is_within(number, interval) is inside
