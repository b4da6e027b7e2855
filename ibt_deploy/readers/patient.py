"""Age and sex of a patient as files write them."""

from __future__ import annotations

import re
from datetime import date

_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})", re.ASCII)
_OLDEST = 150


def day_of(text: str) -> date | None:
    """The day of a text that begins ``YYYYMMDD``; None where it does not or there is no such day."""
    match = _DATE.match(text.strip())
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def whole_years(born: date, then: date) -> int:
    """Age in whole years."""
    return then.year - born.year - ((then.month, then.day) < (born.month, born.day))


def age_between(born: str, then: str) -> float | None:
    """Whole years between two texts that begin ``YYYYMMDD``; None where they do not make an age."""
    first, last = day_of(born), day_of(then)
    if first is None or last is None or not first <= last or whole_years(first, last) > _OLDEST:
        return None
    return float(whole_years(first, last))


def sex_of(text: str) -> str | None:
    """``Male`` or ``Female``, from the word or its first letter; None for anything else."""
    return {"m": "Male", "male": "Male", "f": "Female", "female": "Female"}.get(text.strip().lower())
