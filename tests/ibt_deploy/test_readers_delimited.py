"""Tables of numbers as text: by every code path, a cell is the number it states, or a fault."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy.readers import columns
from ibt_deploy.readers.columns import DelimitedTable

MISSING = ["", "NaN", "nan", "NA", "null", "-nan"]
NUMBERS = ["1", "-2.5", "+3e-2", "  7 ", "\u0662", ".5", "6.", "9" * 40]
WRONG = ["x", "1_0", "0x10", "nan(1)", "1 2", "1e", "--1", "\x00", "1d5"]
INFINITE = ["inf", "-Infinity", "1e400"]
CELLS = [" ", *MISSING, *NUMBERS, *WRONG, *INFINITE]
QUOTED = ['"1"', '"a|b"', '"1\t2"', '""']


def value(cell: str) -> float:
    """What a cell states; NaN where that is not a finite number."""
    return math.nan if cell.strip() in MISSING or cell in WRONG else float(cell)


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[list[str]]]:
    cells = st.sampled_from(draw(st.sampled_from([NUMBERS[:3] + MISSING[:2], CELLS])))
    width = draw(st.integers(1, 4))
    row = st.lists(cells, min_size=width, max_size=width).filter(lambda row: any(map(str.strip, row)))
    return draw(st.sampled_from("|,;\t")), draw(st.lists(row, min_size=1, max_size=6))


@given(tables(), st.sampled_from([1, 2, 2048]))
def test_every_cell_is_read_by_itself(table: tuple[str, list[list[str]]], at_once: int) -> None:
    mark, rows = table
    names = [f"c{column}" for column in range(len(rows[0]))]
    text = "\n".join(mark.join(row) for row in [names, *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "ROWS_AT_ONCE", at_once)
        found = DelimitedTable(text, mark).numbers(names)
    np.testing.assert_array_equal(found.values, [[value(cell) for cell in row] for row in rows])
    assert found.faults.keys() == {
        number for number, row in enumerate(rows) if not {*row}.isdisjoint([*WRONG, *INFINITE])
    }
    for number, fault in found.faults.items():
        wrong = [column for column, cell in enumerate(rows[number]) if cell in WRONG]
        infinite = [column for column, cell in enumerate(rows[number]) if cell in INFINITE]
        assert fault.code == ("not_a_number" if wrong else "infinite")
        assert f"row {number + 1}, column c{(wrong or infinite)[0]}:" in str(fault)


@pytest.mark.parametrize("cell", QUOTED)
def test_quoted_cells_are_taken_out_of_their_quotes(cell: str) -> None:
    mark = "\t" if "\t" in cell else "|"
    found = DelimitedTable(f"a{mark}b\n{cell}{mark}\n", mark).numbers(["a", "b"])
    inside = cell.strip('"')
    assert found.faults.keys() == ({0} if len(inside) > 1 else set())
    np.testing.assert_array_equal(found.values, [[float(inside) if len(inside) == 1 else math.nan, math.nan]])


def test_only_the_columns_asked_for_count() -> None:
    table = DelimitedTable("who|a|b\np_1|1|x\np_2|2|4\n", "|")
    found = table.numbers(["a"])
    np.testing.assert_array_equal(found.values, [[1.0], [2.0]])
    assert not found.faults
    assert table.numbers(["b"]).faults.keys() == {0}
    assert table.words("who") == ["p_1", "p_2"]
