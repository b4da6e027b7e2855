"""What a plain array does not say: its sampling rate, its unit and its leads.

A text table or an array is nothing but numbers. What they mean is declared in a small file beside it, in
TOML or JSON: ``r1.toml`` or ``r1.json`` for ``r1.csv``, else ``layout.toml`` or ``layout.json`` for every
such file of the folder::

    sampling_rate = 500          # Hz
    unit = "uV"                  # of one step of the numbers: mV, uV or V
    leads = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6"

Optional keys: ``scale`` (units in one step, e.g. 4.88), ``orientation`` (``"columns"`` or ``"rows"``: what
holds one lead), ``delimiter`` and ``decimal`` of a text, ``skip_lines`` before its numbers, ``variable`` of a
file that holds several arrays. A rate or a unit that is nowhere stated is a refusal, never a default.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ibt_deploy.errors import BadSampling, BadUnits, MalformedFile, MissingLeads, TooLong
from ibt_deploy.files import File
from ibt_deploy.leads import LEADS, canonical_lead
from ibt_deploy.printable import first_line
from ibt_deploy.readers.units import millivolts_per
from ibt_deploy.records import Recording
from ibt_deploy.types import Array, Floats

KEYS = (
    "sampling_rate",
    "unit",
    "leads",
    "scale",
    "orientation",
    "delimiter",
    "decimal",
    "skip_lines",
    "variable",
)
SUFFIXES = (".toml", ".json")
SHARED_STEM = "layout"
MAX_BYTES = 1 << 16
MAX_LEADS = 64
MAX_VALUES = 25_000_000
"""Samples times leads at most (12 leads at 500 Hz: over an hour), so that memory stays bounded."""
MAX_RATE = 1e7

EXAMPLES = {
    "sampling_rate": "sampling_rate = 500",
    "unit": 'unit = "uV"',
    "leads": f'leads = "{" ".join(LEADS)}"',
}
"""The keys that every array needs, as a person would write them."""

_TYPES: dict[str, tuple[type, ...]] = {
    "sampling_rate": (int, float),
    "scale": (int, float),
    "skip_lines": (int,),
    "leads": (str, list),
}


class Layout(NamedTuple):
    """What is declared about an array, and where.

    Attributes
    ----------
    stated
        Values by key, of :data:`KEYS`; checked for their types.
    source
        Name of the file that declares it, or None where there is none.
    """

    stated: Mapping[str, Any]
    source: str | None


def layout_beside(file: File) -> Layout:
    """The layout declared beside ``file``; empty where there is none.

    Raises
    ------
    MalformedFile
        It is not TOML or JSON, or states something unknown or impossible.
    """
    for stem in dict.fromkeys((file.stem, SHARED_STEM)):
        for suffix in SUFFIXES:
            sidecar = file.with_name(stem + suffix)
            if sidecar.name != file.name and sidecar.is_file():
                return Layout(checked(_parsed(sidecar), sidecar.name), sidecar.name)
    return Layout({}, None)


def checked(stated: Mapping[str, Any], source: str) -> dict[str, Any]:
    """``stated`` with nothing in it that no reader understands; MalformedFile otherwise."""
    for key, value in stated.items():
        if key not in KEYS:
            raise MalformedFile(
                f"{source}: unknown key {key[:40]!r}; known: {', '.join(KEYS)}", code="bad_layout"
            )
        if isinstance(value, bool) or not isinstance(value, _TYPES.get(key, (str,))):
            raise MalformedFile(f"{source}: {key} cannot be {value!r:.40}", code="bad_layout")
    for key, allowed in (("orientation", ("columns", "rows")), ("decimal", (".", ","))):
        if stated.get(key, allowed[0]) not in allowed:
            raise MalformedFile(f"{source}: {key} is {' or '.join(allowed)}", code="bad_layout")
    if len(stated.get("delimiter", ",")) != 1:
        raise MalformedFile(f"{source}: delimiter is one character", code="bad_layout")
    if stated.get("skip_lines", 0) < 0:
        raise MalformedFile(f"{source}: skip_lines is negative", code="bad_layout")
    return dict(stated)


def _parsed(sidecar: File) -> dict[str, Any]:
    if sidecar.stat().st_size > MAX_BYTES:
        raise MalformedFile(f"{sidecar.name} is too large to be a layout", code="bad_layout")
    try:
        text = sidecar.read_bytes().decode("utf-8-sig")
        found = tomllib.loads(text) if sidecar.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = first_line(error)[:120]
        raise MalformedFile(f"{sidecar.name} cannot be read: {reason}", code="bad_layout") from error
    if not isinstance(found, dict):
        raise MalformedFile(f"{sidecar.name} is not a table of keys and values", code="bad_layout")
    return found


def lead_names(stated: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The lead names that a layout states: a list, or a text that separates them by blanks or commas."""
    leads = stated.get("leads")
    if leads is None:
        return None
    names = re.split(r"[\s,;]+", leads.strip()) if isinstance(leads, str) else leads
    if not all(isinstance(name, str) and name for name in names) or not 0 < len(names) <= MAX_LEADS:
        raise MalformedFile(f"leads cannot be {leads!r:.80}", code="bad_layout")
    return tuple(names)


def recording_of(
    values: Array,
    stated: Mapping[str, Any],
    file: File,
    *,
    what: str,
    notes: tuple[str, ...] = (),
) -> Recording:
    """The recording that the numbers in ``values`` are, by the layout ``stated``.

    Parameters
    ----------
    values
        Real numbers, two-dimensional.
    stated
        As in :class:`Layout`.
    file, what
        Where the numbers are from, and the name of its format.
    notes
        What the reader noticed.

    Raises
    ------
    BadSampling, BadUnits, MissingLeads
        Rate, unit or leads are not stated; the message says where to state them.
    MalformedFile
        The shape is not that of the leads.
    TooLong
        More than :data:`MAX_VALUES` values.
    """
    if values.size > MAX_VALUES:
        raise TooLong(f"{values.size} values; cut it into pieces", code="recording_too_long")
    leads = lead_names(stated)
    missing = [key for key in EXAMPLES if key not in stated]
    if leads is None:
        raise MissingLeads(f"does not name its leads; {_advice(file, missing)}", code="missing_lead_name")
    if "sampling_rate" in missing:
        raise BadSampling(f"states no sampling rate; {_advice(file, missing)}", code="missing_rate")
    if "unit" in missing:
        raise BadUnits(f"states no unit; {_advice(file, missing)}", code="missing_unit")
    rate = _positive(stated["sampling_rate"])
    if rate is None or rate >= MAX_RATE:
        raise BadSampling(f"{stated['sampling_rate']!r:.40} Hz is no sampling rate", code="missing_rate")
    millivolts = millivolts_per(stated["unit"])
    if millivolts is None:
        raise BadUnits(f"the unit {stated['unit'][:40]!r} is not mV, uV or V", code="unknown_unit")
    scale = _positive(stated.get("scale", 1.0))
    if scale is None:
        raise BadUnits(f"the scale {stated['scale']!r:.40} is not a positive number", code="missing_gain")

    doubled = [lead for number, lead in enumerate(leads) if _known(lead) in map(_known, leads[:number])]
    if doubled:
        raise MissingLeads(f"the lead {doubled[0][:20]} is there twice", code="doubled_lead")
    rows = _one_row_a_lead(values, leads, stated.get("orientation"), file)
    signal: Floats = np.array(rows, dtype=np.float64, order="C")
    signal *= millivolts * scale
    signal[~np.isfinite(signal)] = np.nan
    converted = () if millivolts == 1.0 else (f"converted from {stated['unit'].strip()} to mV",)
    return Recording(
        signal=signal,
        sampling_rate=rate,
        leads=leads,
        record_id=file.stem,
        source=str(file),
        format=what,
        notes=(*notes, *converted),
    )


def _one_row_a_lead(values: Array, leads: tuple[str, ...], orientation: str | None, file: File) -> Array:
    """``values`` or its transpose, whichever has one row for each lead."""
    n, shape = len(leads), values.shape
    if orientation is None:
        if shape == (n, n):
            raise MalformedFile(
                f"as many samples as leads: say which is which; {_advice(file, ['orientation'])}",
                code="bad_layout",
            )
        orientation = "rows" if shape[0] == n else "columns"
    rows = values if orientation == "rows" else values.T
    if len(rows) != n:
        raise MalformedFile(
            f"{shape[0]} by {shape[1]} numbers do not hold {n} leads as {orientation}", code="bad_layout"
        )
    return rows


def _known(lead: str) -> str:
    """The standard lead that is meant, or the name as it is."""
    return canonical_lead(lead) or lead


def _positive(number: float | None) -> float | None:
    """``number`` as a float if it is finite and above zero."""
    try:
        return float(number) if number is not None and 0 < float(number) < math.inf else None
    except OverflowError:
        return None


def _advice(file: File, keys: list[str]) -> str:
    lines = "; ".join({**EXAMPLES, "orientation": 'orientation = "columns"'}[key] for key in keys)
    name = f"{file.stem}{SUFFIXES[0]} or {SHARED_STEM}{SUFFIXES[0]}"
    return f"write {name} beside it with, for example: {lines}"


def standard_leads_in(names: list[str]) -> int:
    """How many different standard leads ``names`` are."""
    return len({canonical_lead(name) for name in names} - {None})
