"""From the JSON of an answer back to the objects it was made from, so that every view works on both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ibt_deploy.classes import CLASSES
from ibt_deploy.contract import BundleClass
from ibt_deploy.predictions import ArrhythmiaPrediction, Model, Prediction, Refusal, SepsisPrediction
from ibt_deploy.preprocess.heart_rate import HeartRate
from ibt_deploy.records import Notice
from ibt_deploy.variables import INDEX, N_VARIABLES

_CODES = {c.code: c.codes for c in CLASSES}


def answer_of(entry: Mapping[str, Any], source: str) -> Prediction | Refusal:
    """The prediction or refusal whose ``to_dict()`` is ``entry``, but with our own name for its source.

    Raises
    ------
    KeyError, TypeError, ValueError, IndexError
        It is no such thing.
    """
    if entry.get("refused"):
        message = told_of(source, [str(entry["source"])], str(entry["message"]))
        return Refusal(source, str(entry["code"]), message)
    found = _arrhythmia(entry) if entry["task"] == "arrhythmia" else _sepsis(entry)
    return replace(found, source=source)


def told_of(source: str, theirs: Iterable[str], message: str) -> str:
    """A refusal's line with our own name for the source in place of the name that the server gives it."""
    for name in theirs:
        rest = message.removeprefix(name)
        if rest != message and rest.startswith((":", ",")):
            return f"{source}{rest}"
    return f"{source}: {message}"


def _arrhythmia(entry: Mapping[str, Any]) -> ArrhythmiaPrediction:
    given, findings, windows = entry["input"], entry["findings"], entry["windows"]
    return ArrhythmiaPrediction(
        record=str(entry["record"]),
        source=str(given["source"]),
        format=str(given["format"]),
        sampling_rate=float(given["sampling_rate"]),
        duration=float(given["duration"]),
        leads=tuple(map(str, given["leads"])),
        changes=tuple(map(str, given["changes"])),
        warnings=_notices(entry["warnings"]),
        model=_model(entry),
        classes=tuple(
            BundleClass(
                str(f["code"]), str(f["abbreviation"]), str(f["name"]),
                _CODES.get(f["code"], (str(f["code"]),)), bool(f["evaluable"]), {},
            )
            for f in findings
        ),
        probabilities=np.array([f["probability"] for f in findings], dtype=np.float64),
        thresholds=np.array([f["threshold"] for f in findings], dtype=np.float64),
        positive=np.array([f["positive"] for f in findings], dtype=bool),
        alternative=np.array([f["status"] == "alternative" for f in findings], dtype=bool),
        windows=np.array([w["probabilities"] for w in windows], dtype=np.float64),
        window_starts=np.array([w["start"] for w in windows], dtype=np.float64),
        familiarity=entry.get("familiarity"),
        heart_rate=_heart_rate(entry.get("heart_rate")),
    )  # fmt: skip


def _heart_rate(entry: Mapping[str, Any] | None) -> HeartRate | None:
    if entry is None:
        return None
    return HeartRate(entry["bpm"], np.array(entry["r_peaks"], dtype=np.float64))


def _sepsis(entry: Mapping[str, Any]) -> SepsisPrediction:
    """As :func:`_arrhythmia`; ``values`` are infinite where something was measured.

    An answer states what was measured in each hour, not how much it was.
    """
    given, hours = entry["input"], entry["hours"]
    values = np.full((len(hours), N_VARIABLES), np.inf)
    for row, hour in zip(values, hours, strict=True):
        row[[INDEX[name] for name in hour["missing"]]] = np.nan
    return SepsisPrediction(
        record=str(entry["record"]),
        source=str(given["source"]),
        format=str(given["format"]),
        changes=tuple(map(str, given["changes"])),
        warnings=_notices(entry["warnings"]),
        model=_model(entry),
        hours=np.array([h["hour"] for h in hours], dtype=np.int64),
        risk=np.array([h["risk"] for h in hours], dtype=np.float64),
        alarms=np.array([h["alarm"] for h in hours], dtype=bool),
        threshold=float(hours[0]["threshold"]),
        values=values,
        inserted=np.array([h["inserted"] for h in hours], dtype=bool),
    )


def _model(entry: Mapping[str, Any]) -> Model:
    bundle = entry["bundle"]
    return Model(
        name=str(bundle["name"]),
        version=str(bundle["version"]),
        sha256=str(bundle["sha256"]),
        variant=str(bundle["variant"]),
        operating_point=str(entry["operating_point"]),
        device=str(entry["device"]),
    )


def _notices(entries: list[Mapping[str, str]]) -> tuple[Notice, ...]:
    return tuple(Notice(str(w["code"]), str(w["message"])) for w in entries)
