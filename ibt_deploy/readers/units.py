"""Units, gains and sampling intervals as files write them."""

from __future__ import annotations

from collections.abc import Sequence

from ibt_deploy.records import Notice

MAX_RATE = 1e7
"""Hz; sampling rates must be lower."""

MILLIVOLTS: dict[str, float] = {
    "mv": 1.0, "uv": 1e-3, "\u00b5v": 1e-3, "\u03bcv": 1e-3, "v": 1e3, "nv": 1e-6,
    "millivolt": 1.0, "microvolt": 1e-3, "volt": 1e3, "nanovolt": 1e-6,
}  # fmt: skip
"""Millivolts of one unit, by its name in lower case."""


def millivolts_per(unit: str) -> float | None:
    """Millivolts of one ``unit``; None where it is not a known voltage."""
    return MILLIVOLTS.get(unit.strip().lower())


def rate_of_interval(seconds: float, rounding: float = 0.0) -> float:
    """Sampling rate in Hz of an interval that was written with an error of up to ``rounding`` seconds.

    A whole rate whose interval rounds to the written one is meant: 3333 µs are those of 300 Hz.
    """
    rate = 1.0 / seconds
    whole = round(rate)
    return float(whole) if whole > 0 and abs(1.0 / whole - seconds) <= rounding + 1e-12 else rate


def inverted_leads(leads: Sequence[str], gain: str = "gain") -> tuple[Notice, ...]:
    """A warning of ``leads`` whose negative gain inverts them: rarely meant, and it changes every sign.

    ``gain`` is what the format calls it.
    """
    if not leads:
        return ()
    return (Notice("negative_gain", f"a negative {gain} inverts these leads: {', '.join(leads)[:200]}"),)
