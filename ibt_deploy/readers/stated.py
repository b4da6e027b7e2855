"""Parse what files state in their own words or numbers: units, rates, times, devices and patients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta, timezone

from ibt_deploy.errors import one_line
from ibt_deploy.records import Notice

MAX_RATE = 1e7
"""Sampling rates in Hz must be lower than this."""

MILLIVOLTS: dict[str, float] = {
    "mv": 1.0, "uv": 1e-3, "\u00b5v": 1e-3, "\u03bcv": 1e-3, "v": 1e3, "nv": 1e-6,
    "millivolt": 1.0, "microvolt": 1e-3, "volt": 1e3, "nanovolt": 1e-6,
}  # fmt: skip
"""Millivolts per unit, by its name in lower case."""


def millivolts_per(unit: str) -> float | None:
    """Millivolts per ``unit``; None if it is not a known voltage."""
    return MILLIVOLTS.get(unit.strip().lower())


def rate_of_interval(seconds: float, rounding: float = 0.0) -> float:
    """Sampling rate in Hz from an interval written with an error of up to ``rounding`` seconds.

    A whole rate whose interval rounds to the written one is assumed: 3333 µs means 300 Hz.
    """
    rate = 1.0 / seconds
    whole = round(rate)
    return float(whole) if whole > 0 and abs(1.0 / whole - seconds) <= rounding + 1e-12 else rate


def inverted_leads(leads: Sequence[str], gain: str = "gain") -> tuple[Notice, ...]:
    """A warning about ``leads`` whose negative gain inverts them: rarely intended, and it changes every sign.

    ``gain`` is the format's term for it.
    """
    if not leads:
        return ()
    return (Notice("negative_gain", f"a negative {gain} inverts these leads: {', '.join(leads)[:200]}"),)


YEARS = {"years": 1.0, "year": 1.0, "months": 1 / 12, "weeks": 7 / 365.25, "days": 1 / 365.25}
"""Years per unit of age, as written by GE."""

_MOMENT = re.compile(
    r"(?P<day>\d{8})(?:\d{2}|(?P<time>\d{4}(?:\d{2})?)(?:[.,](?P<part>\d{1,9}))?)?(?P<zone>[+-]\d{4})?",
    re.ASCII,
)
_OLDEST = 150
_LONGEST_DEVICE = 120
_UNKNOWN = frozenset({"", "unknown", "none", "n/a", "x"})


def moment(
    year: float, month: float, day: float, clock: time | None = None, zone_minutes: int | None = None
) -> datetime | date | None:
    """A date, with the time of day if known; None if there is no such day or zone."""
    try:
        on = date(int(year), int(month), int(day))
        if clock is None:
            return on
        zone = None if zone_minutes is None else timezone(timedelta(minutes=zone_minutes))
        return datetime.combine(on, clock, zone)
    except (ValueError, OverflowError):
        return None


def clock_of(hour: float, minute: float, second: float = 0.0) -> time | None:
    """A time of day, to the microsecond; None if there is no such time."""
    try:
        whole = int(second)
        return time(int(hour), int(minute), whole, min(round((second - whole) * 1e6), 999_999))
    except (ValueError, OverflowError):
        return None


def moment_of(text: str) -> datetime | date | None:
    """The date, or date and time, in a text ``YYYYMMDD[HHMM[SS[.ffffff]]][+ZZZZ]`` of DICOM or HL7.

    An hour without minutes is ignored; None for any other text.
    """
    match = _MOMENT.fullmatch(text.strip())
    if match is None:
        return None
    day, clock, zone = match["day"], None, None
    if (digits := match["time"]) is not None:
        second = float(f"{digits[4:] or 0}.{match['part'] or 0}")
        clock = clock_of(int(digits[:2]), int(digits[2:4]), second)
        if clock is None:
            return None
    if match["zone"] is not None:
        minutes = 60 * int(match["zone"][1:3]) + int(match["zone"][3:])
        zone = -minutes if match["zone"][0] == "-" else minutes
    return moment(int(day[:4]), int(day[4:6]), int(day[6:]), clock, zone)


def moment_of_iso(text: str) -> datetime | date | None:
    """The date, or date and time, in an ISO 8601 text; None for anything else."""
    text = text.strip()
    try:
        return date.fromisoformat(text) if len(text) <= len("20240131") + 2 else datetime.fromisoformat(text)
    except ValueError:
        return None


def device_of(*parts: str) -> str | None:
    """Maker and model as one line, without a maker that the model repeats; None if neither is stated."""
    texts = [one_line(part.replace("\0", " ")).strip() for part in parts]
    found = [text for text in dict.fromkeys(texts) if text.lower() not in _UNKNOWN]
    kept = [
        text for text in found if not any(text != other and text.lower() in other.lower() for other in found)
    ]
    return " ".join(kept)[:_LONGEST_DEVICE] or None


def day_of(text: str) -> date | None:
    """The day of a text that begins ``YYYYMMDD``; None if it does not or there is no such day."""
    return moment_of(text.strip()[:8])


def whole_years(born: date, then: date) -> int:
    """Age in whole years."""
    return then.year - born.year - ((then.month, then.day) < (born.month, born.day))


def age_between(born: str, then: str) -> float | None:
    """Whole years between two texts that begin ``YYYYMMDD``; None if they do not give an age."""
    first, last = day_of(born), day_of(then)
    if first is None or last is None or not first <= last or whole_years(first, last) > _OLDEST:
        return None
    return float(whole_years(first, last))


def sex_of(text: str) -> str | None:
    """``Male`` or ``Female``, from the word or its first letter; None for anything else."""
    return {"m": "Male", "male": "Male", "f": "Female", "female": "Female"}.get(text.strip().lower())
