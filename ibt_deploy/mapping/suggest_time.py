"""What a suggestion says about time: hours, offsets or timestamps, and what nobody but a person can know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

import numpy as np

from ibt_deploy.mapping.sample import Sample, quoted
from ibt_deploy.mapping.synonyms import ADMISSIONS, HOSPITAL_ADMISSIONS, HOURS, OFFSETS, TIMES

FORMATS = (
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%Y%m%d%H%M%S",
    "%Y%m%d %H:%M",
)
ISO = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?")
ISO_OFFSET = re.compile(ISO.pattern + r"([zZ]|[+-]\d\d:?\d\d|[+-]\d\d)")
LOOKED_AT = 500


def time_lines(sample: Sample, by_plain: dict[str, str], used: set[str]) -> Iterator[str]:
    """The section ``[time]``; columns that it names are added to ``used``."""
    yield "[time]"
    hours = _first(HOURS, by_plain)
    offsets = _first(OFFSETS, by_plain)
    times = _first(TIMES, by_plain)
    if hours is not None:
        used.add(hours)
        yield from _hours(sample, hours)
    elif times is not None:
        used.add(times)
        yield from _timestamps(sample, times, by_plain, used)
    elif offsets is not None:
        used.add(offsets)
        yield 'kind = "hours"'
        yield f"column = {quoted(offsets)}"
        yield 'unit = "?"  # "min", "h", "s" or "d" since admission to the ICU'
    else:
        yield 'kind = "?"  # "iculos", "hours" or "timestamp"'
        yield 'column = "?"  # nothing that looks like a time was found'


def _hours(sample: Sample, column: str) -> Iterator[str]:
    values = sample.numbers(column)
    is_whole = len(values) > 0 and bool((values == np.floor(values)).all())
    if is_whole and values.min() >= 1:
        yield 'kind = "iculos"  # whole hours, the first hour of the stay is 1'
        yield f"column = {quoted(column)}"
    else:
        yield 'kind = "?"  # "iculos" needs whole hours from 1 on; "hours" counts from admission, 0 on'
        yield f"column = {quoted(column)}"
        yield '# unit = "h"  # with kind = "hours"'


def _timestamps(sample: Sample, column: str, by_plain: dict[str, str], used: set[str]) -> Iterator[str]:
    cells = list(sample.values(column))[:LOOKED_AT]
    yield 'kind = "timestamp"'
    yield f"column = {quoted(column)}"
    if cells and all(ISO_OFFSET.fullmatch(cell) for cell in cells):
        yield 'format = "iso"'
        yield 'zone = "offset"'
    else:
        yield from _format(cells)
        yield 'zone = "?"  # "fixed" if clocks never change (also of shifted dates), or e.g. "Europe/Berlin"'
    admission = _first(ADMISSIONS, by_plain)
    if admission is not None:
        used.add(admission)
        yield f"admission = {quoted(admission)}"
    else:
        yield 'admission = "?"  # a column with the time of ICU admission, or "first" for the first row'
    hospital = _first(HOSPITAL_ADMISSIONS, by_plain)
    if hospital is not None:
        used.add(hospital)
        yield f"hospital_admission = {quoted(hospital)}"
    yield 'before_admission = "refuse"  # or "drop": rows before ICU admission are left out and counted'
    yield 'after_two_weeks = "refuse"  # or "drop": the models know at most 336 hours'


def _format(cells: list[str]) -> Iterator[str]:
    if cells and all(ISO.fullmatch(cell) for cell in cells):
        yield 'format = "iso"'
        return
    fitting = [pattern for pattern in FORMATS if cells and all(_fits(cell, pattern) for cell in cells)]
    if len(fitting) == 1:
        yield f"format = {quoted(fitting[0])}"
    elif fitting:
        yield f'format = "?"  # {" or ".join(map(quoted, fitting))}: day and month cannot be told apart'
    else:
        example = "".join(c if c.isprintable() else "?" for c in cells[0][:40]) if cells else "nothing"
        yield f'format = "?"  # as strptime has it; e.g. {example}'


def _fits(cell: str, pattern: str) -> bool:
    try:
        datetime.strptime(cell, pattern)
    except ValueError:
        return False
    return True


def _first(names: list[str], by_plain: dict[str, str]) -> str | None:
    return next((by_plain[name] for name in names if name in by_plain), None)
