"""One recording from a request: uploaded files, or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ibt_deploy.errors import BadUnits, InputError
from ibt_deploy.files import MemoryFile, MemoryFolder
from ibt_deploy.readers import read
from ibt_deploy.readers.wfdb import available_frames, signal_files
from ibt_deploy.readers.wfdb.header import parse_header
from ibt_deploy.records import Recording, Stay
from ibt_deploy.types import Floats
from serving.http.problems import Problem
from serving.input.json_text import as_object, record_name
from serving.input.uploads import unpacked_too_large
from serving.settings import Settings

LAYOUTS = (".toml", ".json")
HEADER = ".hea"
MILLIVOLTS = {"mV": 1.0, "uV": 1e-3, "µV": 1e-3, "μV": 1e-3, "V": 1e3}
FIELDS = {"signal", "sampling_rate", "leads", "unit", "record"}
MOST_LEADS = 64
BYTES_A_SAMPLE = 2
CELLS = {int, float, type(None)}


def uploaded_recording(files: Mapping[str, bytes], settings: Settings) -> list[Recording] | list[Stay]:
    """Read the uploaded files; a stay is left for the predictor to refuse.

    Raises
    ------
    Problem
        Not exactly one recording, or one that is too long.
    InputError
        The reader refuses it.
    """
    file = _main_file(MemoryFolder(files))
    if file.suffix.lower() == HEADER:
        _check_header(file, settings)
    found = read(file)
    if len(found) != 1:
        raise Problem("no_recording", f"The file holds {len(found)} recordings; send one at a time.")
    for item in found:
        if isinstance(item, Recording):
            _check_length(item.duration, settings)
    return found


def stated_recording(value: Any, settings: Settings) -> list[Recording]:
    """The recording in a JSON object.

    Raises
    ------
    Problem
        A field is missing, unknown or of the wrong kind, or the recording is too long.
    BadUnits
        The unit is unknown.
    """
    stated = as_object(value, FIELDS, required=FIELDS - {"record"})
    rate, leads, unit = stated["sampling_rate"], stated["leads"], stated["unit"]
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
        raise Problem("bad_fields", "'sampling_rate' must be a number above 0, in Hz.")
    if not isinstance(leads, list) or not all(isinstance(lead, str) and len(lead) <= 32 for lead in leads):
        raise Problem("bad_fields", "'leads' must be a list of lead names.")
    if not isinstance(unit, str):
        raise Problem("bad_fields", "'unit' must be mV, uV or V.")
    if unit not in MILLIVOLTS:
        raise BadUnits("the unit is not mV, uV or V", where="unit", code="unknown_unit")
    signal = _signal(stated["signal"], len(leads))
    _check_length(signal.shape[1] / rate, settings)
    record = record_name(stated.get("record"), "recording")
    with np.errstate(over="ignore"):  # a value that becomes infinite is an invalid sample
        millivolts = signal * MILLIVOLTS[unit]
    return [
        Recording(
            signal=millivolts,
            sampling_rate=float(rate),
            leads=tuple(leads),
            record_id=record,
            source=record,
            format="JSON",
            notes=() if unit == "mV" else (f"converted from {unit} to mV",),
        )
    ]


def _signal(rows: Any, n_leads: int) -> Floats:
    if not isinstance(rows, list) or not rows or len(rows) != n_leads or len(rows) > MOST_LEADS:
        raise Problem("bad_fields", "'signal' must be a list with one list of samples for each lead.")
    if not all(isinstance(row, list) and row and len(row) == len(rows[0]) for row in rows):
        raise Problem("bad_fields", "Every lead in 'signal' must have the same number of samples.")
    if not all(set(map(type, row)) <= CELLS for row in rows):
        raise Problem("bad_fields", "'signal' must consist of numbers, and null for invalid samples.")
    return np.array(rows, dtype=np.float64)


def _main_file(folder: MemoryFolder) -> MemoryFile:
    """The header, or the only file, possibly with a layout file beside it."""
    files = list(folder)
    headers = [file for file in files if file.suffix.lower() == HEADER]
    chosen = headers or [file for file in files if file.suffix.lower() not in LAYOUTS] or files
    if len(chosen) != 1:
        raise Problem(
            "no_recording",
            f"The upload holds {len(files)} files, {len(headers)} of them WFDB headers; send the files of "
            "one recording: a .hea with its signal files, or one file of another format.",
        )
    return chosen[0]


def _check_header(file: MemoryFile, settings: Settings) -> None:
    """Refuse a record that is too long or has too many samples, before memory is allocated for it."""
    header = parse_header(file.read_bytes().decode("utf-8", errors="replace"))
    try:
        frames = header.frames or available_frames(header, signal_files(header, file))
    except InputError as error:
        raise error.at(str(file)) from None
    _check_length(frames / header.rate, settings)
    if frames * len(header.signals) * BYTES_A_SAMPLE > settings.unpacked_bytes:
        raise unpacked_too_large(settings)


def _check_length(seconds: float, settings: Settings) -> None:
    if seconds > settings.record_seconds:
        raise Problem(
            "record_too_long",
            f"The recording is longer than the {settings.record_seconds:g} s that this service takes; "
            "cut it, or use 'ibt batch'.",
        )
