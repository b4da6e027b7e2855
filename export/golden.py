"""Golden inputs of a bundle: made from the examples of the repository, never from patients of the data sets.

Every input is quantised as devices do (int16 microvolts; table values), so that the file holds exactly what
was scored. The ECG variants go through every branch of preprocessing: sampling rates that need different
filters, an odd rate, derived leads, invalid samples, several windows, a short recording. The stay variants
are one hour, two weeks, a stay that is known only from its 30th hour on, and one with hardly anything
measured.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import DataError, IbtError
from ibt_deploy.golden import GOLDEN, GoldenCase, golden_arrays
from ibt_deploy.leads import LEADS
from ibt_deploy.preprocess.filters import resample
from ibt_deploy.readers import read
from ibt_deploy.records import Recording, Stay
from ibt_deploy.scorers.ecg import EcgScorer
from ibt_deploy.scorers.stay import StayScorer
from ibt_deploy.variables import INDEX, MAX_HOURS, N_TIME_VARYING

MICROVOLTS = 1000.0
INVALID = np.iinfo(np.int16).min
RECORDING, STAY = "recording.hea", "stay.psv"

Int16s = npt.NDArray[np.int16]


def ecg_inputs(examples: Path) -> dict[str, Recording]:
    """Recordings by name, from the example recording."""
    given = _example(examples / RECORDING, Recording)
    if given.leads != LEADS or np.isnan(given.signal).any() or given.duration < 10:
        raise DataError(f"{given.source}: golden inputs need 10 s of the 12 leads without gaps")
    rate = round(given.sampling_rate)
    at = {hz: resample(given.signal, rate, hz) if hz != rate else given.signal for hz in (257, 500, 1000)}
    gaps = _microvolts(at[500])
    gaps[6, 1000:1040] = gaps[9, 2500:3200] = INVALID
    eight = [LEADS.index(lead) for lead in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")]
    cases: dict[str, tuple[Int16s, int, tuple[str, ...]]] = {
        "1000 Hz": (_microvolts(at[1000]), 1000, LEADS),
        "500 Hz, half amplitude": (_microvolts(0.5 * at[500]), 500, LEADS),
        "257 Hz, one and a half amplitude": (_microvolts(1.5 * at[257]), 257, LEADS),
        "500 Hz, invalid samples": (gaps, 500, LEADS),
        "500 Hz, eight leads, 9 s": (_microvolts(at[500][eight, :4500]), 500, tuple(LEADS[i] for i in eight)),
        "257 Hz, three windows": (_microvolts(np.tile(at[257], (1, 3))[:, : 26 * 257]), 257, LEADS),
    }
    return {name: _recording(name, *case) for name, case in cases.items()}


def stay_inputs(examples: Path) -> dict[str, Stay]:
    """Stays by name, from the example stay."""
    given = _example(examples / STAY, Stay)
    values = given.values
    repeats = -(-MAX_HOURS // len(values))
    long = np.tile(values, (repeats, 1))[:MAX_HOURS]
    sparse = values.copy()
    sparse[:, 1:N_TIME_VARYING] = np.nan
    hour = INDEX["ICULOS"]
    found = {
        "as it is": values,
        "one hour": values[:1],
        "two weeks": long,
        "known from hour 30": values.copy(),
        "heart rate only": sparse,
    }
    found["two weeks"][:, hour] = np.arange(1, MAX_HOURS + 1)
    found["known from hour 30"][:, hour] = np.arange(30, 30 + len(values))
    return {name: Stay(rows, name, GOLDEN, "golden") for name, rows in found.items()}


def ecg_cases(scorer: EcgScorer, inputs: dict[str, Recording]) -> dict[str, GoldenCase]:
    """The inputs with the features and logits that scoring gives here."""
    cases = {}
    for name, given in inputs.items():
        windows = scorer.prepare(given).windows
        cases[name] = GoldenCase(name, given, windows, scorer.logits(windows, batch_size=8))
    return cases


def stay_cases(scorer: StayScorer, inputs: dict[str, Stay]) -> dict[str, GoldenCase]:
    """The inputs with the features and logits that scoring gives here."""
    cases = {}
    for name, given in inputs.items():
        (features,) = scorer.features([scorer.prepare(given)])
        cases[name] = GoldenCase(name, given, features, scorer.logits([features], batch_size=1)[0])
    return cases


def write_cases(path: Path, cases: dict[str, GoldenCase]) -> None:
    """Write ``golden.npz``, recordings as the int16 microvolts that they are."""
    arrays: dict[str, npt.NDArray[Any]] = golden_arrays(cases)
    for name, case in cases.items():
        if isinstance(case.given, Recording):
            arrays[f"{name}/signal"] = _microvolts(case.given.signal)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _example(path: Path, kind: type[Any]) -> Any:
    try:
        found = read(path)
    except IbtError as error:
        raise DataError(f"golden inputs are made from the example {path}, which fails: {error}") from error
    if len(found) != 1 or not isinstance(found[0], kind):
        raise DataError(f"{path}: is not the example {kind.__name__.lower()}")
    return found[0]


def _microvolts(signal: npt.NDArray[np.float64]) -> Int16s:
    """Int16 microvolts of millivolts; -32768 where invalid."""
    rounded = np.rint(signal * MICROVOLTS).clip(INVALID + 1, np.iinfo(np.int16).max)
    return np.where(np.isnan(rounded), INVALID, rounded).astype(np.int16)


def _recording(name: str, raw: Int16s, rate: int, leads: tuple[str, ...]) -> Recording:
    recording = Recording(raw / MICROVOLTS, float(rate), leads, name, GOLDEN, "golden")
    invalid = raw == INVALID
    return (
        replace(recording, signal=np.where(invalid, np.nan, recording.signal)) if invalid.any() else recording
    )
