"""What was read from a file and everything preprocessing would change, also where the input is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ibt_deploy.bundle import load_bundle, packaged_bundles
from ibt_deploy.errors import InputError
from ibt_deploy.files import AnyFile
from ibt_deploy.inputs import items_of
from ibt_deploy.predictions import Refusal
from ibt_deploy.preprocess.ecg import EcgPreprocessing, examined, window_spans
from ibt_deploy.preprocess.plausibility import plausible_age
from ibt_deploy.preprocess.stay_checks import checked_stay
from ibt_deploy.preprocess.stay_rows import clean
from ibt_deploy.printable import one_line
from ibt_deploy.records import Notice, Recording, Stay
from ibt_deploy.scorers.ecg import window_changes
from ibt_deploy.types import Float32s, Floats
from ibt_deploy.variables import N_TIME_VARYING, VARIABLES


def inspected(file: AnyFile, constants: EcgPreprocessing | None = None) -> Iterator[dict[str, Any]]:
    """What each recording or stay of a file is, as JSON knows it.

    Parameters
    ----------
    file
        Its path, or the file in memory.
    constants
        Of the ECG model whose filter and windows are to be told; None leaves these out.

    Yields
    ------
    A dictionary with ``source``, ``refused`` (None, or code and message) and, where the file could be read,
    ``task``, ``record``, ``format``, ``notes`` (of the reader), ``changes``, ``warnings`` and numbers about
    the content: ``leads`` of a recording, ``variables`` of a stay. A recording that is not refused also has
    its ``heart_rate`` and the ``quality`` of its leads.
    """
    for item in items_of(file):
        if isinstance(item, Refusal):
            yield {"source": item.source, "refused": {"code": item.code, "message": item.message}}
        elif isinstance(item, Recording):
            yield _recording(item, constants)
        else:
            yield _stay(item)


def installed_ecg_constants() -> EcgPreprocessing | None:
    """Preprocessing of the installed ECG model; None where there is none."""
    if "arrhythmia" not in packaged_bundles():
        return None
    constants = load_bundle("arrhythmia").preprocessing
    return constants if isinstance(constants, EcgPreprocessing) else None


def _recording(recording: Recording, constants: EcgPreprocessing | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "source": recording.source,
        "task": "arrhythmia",
        "record": recording.record_id,
        "format": recording.format,
        "sampling_rate": recording.sampling_rate,
        "duration": round(recording.duration, 3),
        "samples": recording.signal.shape[1],
        "age": plausible_age(recording.age),
        "sex": recording.sex,
        "dx": None if recording.dx is None else list(recording.dx),
        "notes": list(recording.notes),
        "leads": [_lead(n, row) for n, row in zip(recording.leads, recording.signal, strict=True)],
    }
    try:
        standard = examined(recording)
    except InputError as error:
        return found | _outcome((), recording.warnings, error)
    changes = standard.changes
    if constants is not None:
        samples = standard.signal.shape[1]
        changes += window_changes(window_spans(samples, constants.length), samples, constants)
    rate = standard.heart_rate
    found["heart_rate"] = None if rate is None else rate.to_dict()
    found["quality"] = [lead.to_dict() for lead in standard.leads]
    return found | _outcome(changes, standard.warnings, None)


def _lead(name: str, signal: Floats) -> dict[str, Any]:
    valid = signal[np.isfinite(signal)]
    extremes = (round(float(valid.min()), 4), round(float(valid.max()), 4)) if len(valid) else (None, None)
    return {
        "name": name,
        "lowest": extremes[0],
        "highest": extremes[1],
        "invalid_samples": int(len(signal) - len(valid)),
        "flat": bool(len(valid)) and extremes[0] == extremes[1],
    }


def _stay(stay: Stay) -> dict[str, Any]:
    inserted = np.zeros(len(stay.values), dtype=bool) if stay.inserted is None else stay.inserted
    cleaned, counts = clean(stay.values)
    found: dict[str, Any] = {
        "source": stay.source,
        "task": "sepsis",
        "record": stay.patient_id,
        "format": stay.format,
        "hours": len(stay.values),
        "first_hour": int(stay.hours[0]) if len(stay.values) else None,
        "inserted_hours": int(inserted.sum()),
        "labels": None if stay.labels is None else {"positive_hours": int((stay.labels > 0).sum())},
        "notes": list(stay.notes),
        "variables": [
            {
                "name": v.name,
                "unit": v.unit,
                "measured": int(counts.observed[i]),
                "implausible": int(counts.out_of_range[i]),
                **_spread(cleaned[:, i]),
            }
            for i, v in enumerate(VARIABLES[:N_TIME_VARYING])
        ],
    }
    try:
        _, warnings = checked_stay(stay)
    except InputError as error:
        return found | _outcome((), (), error)
    return found | _outcome((), warnings, None)


def _spread(column: Float32s) -> dict[str, float | None]:
    measured = column[~np.isnan(column)]
    if not len(measured):
        return {"lowest": None, "median": None, "highest": None}
    return {
        "lowest": round(float(measured.min()), 4),
        "median": round(float(np.median(measured)), 4),
        "highest": round(float(measured.max()), 4),
    }


def _outcome(
    changes: tuple[str, ...], warnings: tuple[Notice, ...], error: InputError | None
) -> dict[str, Any]:
    return {
        "changes": list(changes),
        "warnings": [{"code": w.code, "message": w.message} for w in warnings],
        "refused": None if error is None else {"code": error.code, "message": one_line(error)},
    }
