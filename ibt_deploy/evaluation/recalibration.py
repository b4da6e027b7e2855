"""Fit calibration and thresholds on a site's own labelled patients, judge the change and write a bundle.

The shipped log odds ``u`` of a patient become ``slope * u + intercept``, fitted with a weak prior around
"nothing changes" (:func:`ibt_deploy.calibration.fitted_line`). Thresholds are tuned afterwards, on the new
probabilities. What the new bundle says about itself is cross-fitted: patients are divided into five folds,
and the line and the thresholds that judge a fold come from the other four.

Too few patients are refused: a line through a handful of septic stays would be worse than the shipped one. A
class with too few positives keeps its calibration and its thresholds.

The new bundle differs from the shipped one in calibration and thresholds alone. Its contract has the entry
``recalibration``: the bundle it was made from, the number of patients, and reliability and alarms before and
after. Its card opens with that entry and keeps the shipped card below.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ibt_deploy import __version__
from ibt_deploy.bundle import CONTRACT, Bundle, Calibration
from ibt_deploy.calibration import (
    FLAT,
    alarm_rate_threshold,
    calibration_line,
    challenge_thresholds,
    clinical_thresholds,
    f_thresholds,
    fitted_line,
    reliability,
    sensitivity_threshold,
    utility_threshold,
)
from ibt_deploy.decisions import combined, decisions
from ibt_deploy.errors import BundleError, DataError
from ibt_deploy.evaluation.ecg import ScoredRecordings
from ibt_deploy.evaluation.stay import ScoredStays
from ibt_deploy.files import file_sha256
from ibt_deploy.metrics import arrhythmia as ecg_metrics
from ibt_deploy.metrics import sepsis as stay_metrics
from ibt_deploy.metrics.ranking import brier
from ibt_deploy.metrics.sepsis import alarm_statistics, policy_alarms
from ibt_deploy.predictions import NOTICE
from ibt_deploy.render.report import count, decimal, table
from ibt_deploy.render.svg import reliability_svg
from ibt_deploy.types import Bools, Floats, Ints

FOLDS = 5
FEWEST_SEPTIC, FEWEST_WITHOUT_SEPSIS = 30, 70
FEWEST_RECORDINGS, FEWEST_POSITIVES = 100, 20
UNCHANGED = Calibration(np.ones(1), np.zeros(1))
SMALLEST = 1e-12
"""Probabilities nearer to 0 or 1 are clipped to this for their log odds."""

STAY_POINTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "utility": (
        f"fewest alarms within {FLAT} of the highest utility 2019",
        partial(utility_threshold, within=FLAT),
    ),
    "sensitivity80": (
        "highest threshold that alarms in time (from 12 h before to 3 h after onset) in 80 % of septic stays",
        sensitivity_threshold,
    ),
    "alarms_per_10_patient_days": (
        "lowest threshold with at most 1 alarm in 10 patient-days (6 h of silence after an alarm)",
        alarm_rate_threshold,
    ),
}
ECG_POINTS = {
    "challenge": "highest challenge metric 2021",
    "f1": "highest F measure of each class",
    "clinical": "highest F measure of each class, drawn to the common one where positives are few",
}


@dataclass(frozen=True, eq=False)
class Recalibration:
    """New calibration and thresholds for a bundle, and the evidence for them.

    Attributes
    ----------
    line
        From shipped log odds to those of the site.
    thresholds, descriptions
        Those of every operating point of the bundle.
    counts
        Patients, hours or recordings that the recalibration rests on.
    changed
        Classes that were fitted; empty for stays.
    before, after
        Reliability and decisions at every operating point: as shipped, and cross-fitted.
    data_sha256
        Hash of the patients, labels and shipped probabilities.
    """

    line: Calibration
    thresholds: dict[str, Floats]
    descriptions: dict[str, str]
    counts: dict[str, int]
    changed: tuple[str, ...]
    before: dict[str, Any]
    after: dict[str, Any]
    data_sha256: str

    def calibration(self, shipped: Calibration) -> Calibration:
        """Calibration from logits of the graph to probabilities of the site."""
        return Calibration(
            self.line.slope * shipped.slope, self.line.slope * shipped.intercept + self.line.intercept
        )

    @property
    def is_better(self) -> bool:
        """Whether the cross-fitted Brier score is lower than the shipped one."""
        return bool(self.after["brier"] < self.before["brier"])


def recalibrated_stays(scored: ScoredStays, bundle: Bundle) -> Recalibration:
    """A recalibration on labelled stays.

    Raises
    ------
    DataError
        Fewer than 30 septic stays or 70 others.
    """
    labels, offsets = scored.labels, scored.offsets
    septic = np.add.reduceat(labels, offsets[:-1]) > 0
    if septic.sum() < FEWEST_SEPTIC or (~septic).sum() < FEWEST_WITHOUT_SEPSIS:
        raise DataError(
            f"{septic.sum()} septic stays and {(~septic).sum()} others; a recalibration needs at least "
            f"{FEWEST_SEPTIC} and {FEWEST_WITHOUT_SEPSIS}"
        )
    log_odds = _log_odds(scored.risk)
    fold_of_stay = folds_of(scored.patients, septic)
    fold_of_row = np.repeat(fold_of_stay, np.diff(offsets))
    shipped = {name: float(point.thresholds[0]) for name, point in bundle.operating_points.items()}

    def fitted(rows: Bools, stays: Bools) -> tuple[Calibration, dict[str, float], dict[str, float]]:
        slope, intercept = fitted_line(log_odds[rows], labels[rows])
        line = Calibration(np.array([slope]), np.array([intercept]))
        risk = line.probability(log_odds[rows])
        spans = np.cumsum([0, *np.diff(offsets)[stays]])
        thresholds, reached = {}, {}
        for name, threshold in shipped.items():
            if name in STAY_POINTS:
                tuned = STAY_POINTS[name][1](labels[rows], risk, spans)
                thresholds[name], reached[name] = tuned.threshold, tuned.reached
            else:
                thresholds[name] = float(_carried(np.array([threshold]), line)[0])
        return line, thresholds, reached

    everything = np.ones(len(labels), dtype=bool)
    line, thresholds, reached = fitted(everything, np.ones(len(septic), dtype=bool))
    risk = np.empty(len(labels))
    margins = {name: np.empty(len(labels)) for name in shipped}
    for fold in range(FOLDS):
        out = fold_of_row == fold
        own_line, own_thresholds, _ = fitted(~out, fold_of_stay != fold)
        risk[out] = own_line.probability(log_odds[out])
        for name, threshold in own_thresholds.items():
            margins[name][out] = log_odds[out] * own_line.slope + own_line.intercept - _log_odds(threshold)
    before = _reliability(labels, scored.risk) | {
        "points": {
            name: _stay_point(labels, _log_odds(scored.risk) - _log_odds(threshold), offsets)
            for name, threshold in shipped.items()
        }
    }
    after = _reliability(labels, risk) | {
        "points": {name: _stay_point(labels, margin, offsets) for name, margin in margins.items()}
    }
    descriptions = {
        name: f"{STAY_POINTS[name][0]} on {len(septic)} stays of the site ({reached[name]:.3g} there)"
        if name in STAY_POINTS
        else f"{bundle.operating_points[name].description}; decisions as before the recalibration"
        for name in shipped
    }
    return Recalibration(
        line,
        {name: np.array([threshold]) for name, threshold in thresholds.items()},
        descriptions,
        {"stays": len(septic), "septic": int(septic.sum()), "hours": len(labels)},
        (),
        before,
        after,
        _digest(scored.patients, labels, scored.risk),
    )


def recalibrated_recordings(scored: ScoredRecordings, bundle: Bundle) -> Recalibration:
    """A recalibration on labelled recordings, class by class.

    Raises
    ------
    DataError
        Fewer than 100 recordings, or no class with 20 patients who have it and 20 who do not.
    """
    labels, windows = scored.labels, [_log_odds(w) for w in scored.windows]
    evaluable = np.array([c.evaluable for c in bundle.classes])
    patients = scored.patients
    with_it = np.array([len(np.unique(patients[column])) for column in labels.T])
    without = np.array([len(np.unique(patients[~column])) for column in labels.T])
    enough = evaluable & (with_it >= FEWEST_POSITIVES) & (without >= FEWEST_POSITIVES)
    if len(labels) < FEWEST_RECORDINGS or not enough.any():
        most = int(np.minimum(with_it, without)[evaluable].max())
        raise DataError(
            f"{len(labels)} recordings, and at most {most} patients on the rarer side of a class; a "
            f"recalibration needs at least {FEWEST_RECORDINGS} recordings and {FEWEST_POSITIVES} patients"
        )
    middle = np.array([w[len(w) // 2] for w in windows])
    fold_of_row = folds_of([str(patient) for patient in patients], np.zeros(len(patients), dtype=bool))
    shipped = {name: point.thresholds for name, point in bundle.operating_points.items()}

    def fitted(rows: Bools) -> tuple[Calibration, dict[str, Floats]]:
        slope, intercept = np.ones(len(enough)), np.zeros(len(enough))
        for column in np.flatnonzero(enough):
            slope[column], intercept[column] = fitted_line(middle[rows, column], labels[rows, column])
        line = Calibration(slope, intercept)
        chosen = [w for w, is_in in zip(windows, rows, strict=True) if is_in]
        probabilities = np.array([combined(line.probability(w)) for w in chosen])
        thresholds = {}
        for name, given in shipped.items():
            kept = _carried(given, line)
            if name == "challenge":
                kept = np.where(
                    enough,
                    challenge_thresholds(labels[rows], probabilities, evaluable=evaluable).thresholds,
                    kept,
                )
            elif name == "clinical":
                own = clinical_thresholds(labels[rows], probabilities, evaluable=evaluable)
                kept = np.where(enough, own, kept)
            elif name in ECG_POINTS:
                kept = np.where(enough, f_thresholds(labels[rows], probabilities), kept)
            thresholds[name] = kept
        return line, thresholds

    def given_at(name: str, p: Floats, thresholds: Floats) -> Bools:
        exclusive = bundle.operating_points[name].exclusive
        return decisions(p, thresholds, evaluable, exclusive=exclusive)

    line, thresholds = fitted(np.ones(len(labels), dtype=bool))
    probabilities = np.empty(labels.shape)
    outputs = {name: np.empty(labels.shape, dtype=bool) for name in shipped}
    for fold in range(FOLDS):
        out = fold_of_row == fold
        if not out.any():
            continue
        own_line, own_thresholds = fitted(~out)
        rows = np.flatnonzero(out)
        probabilities[rows] = [combined(own_line.probability(windows[row])) for row in rows]
        for name, threshold in own_thresholds.items():
            outputs[name][rows] = given_at(name, probabilities[rows], threshold)
    before = _reliability(labels[:, enough].ravel(), scored.probabilities[:, enough].ravel()) | {
        "points": {
            name: _ecg_point(labels, given_at(name, scored.probabilities, threshold))
            for name, threshold in shipped.items()
        }
    }
    after = _reliability(labels[:, enough].ravel(), probabilities[:, enough].ravel()) | {
        "points": {name: _ecg_point(labels, output) for name, output in outputs.items()}
    }
    changed = tuple(c.abbreviation for c, is_fitted in zip(bundle.classes, enough, strict=True) if is_fitted)
    descriptions = {
        name: f"{ECG_POINTS[name]} on {len(labels)} recordings of the site; of "
        f"{len(changed)} classes with enough patients, the others as before"
        if name in ECG_POINTS
        else f"{bundle.operating_points[name].description}; decisions as before the recalibration"
        for name in shipped
    }
    return Recalibration(
        line,
        thresholds,
        descriptions,
        {"recordings": len(labels), "patients": len(np.unique(patients)), "classes fitted": len(changed)},
        changed,
        before,
        after,
        _digest(scored.records, labels, scored.probabilities),
    )


def folds_of(patients: Sequence[str], strata: Bools) -> Ints:
    """Fold, 0 to 4, of each patient: by the hash of the name, of similar size within each stratum.

    All data under one name are in one fold, whatever their order.
    """
    names = np.array(patients)
    folds = np.empty(len(names), dtype=np.int64)
    of_name: dict[str, int] = {}
    for stratum in (True, False):
        chosen = sorted(set(names[strata == stratum].tolist()) - of_name.keys(), key=_hash)
        of_name |= {name: place % FOLDS for place, name in enumerate(chosen)}
    for place, name in enumerate(names.tolist()):
        folds[place] = of_name[name]
    return folds


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _carried(thresholds: Floats, line: Calibration) -> Floats:
    """Thresholds on the new probabilities that decide as the shipped ones do on theirs."""
    return np.clip(line.probability(_log_odds(thresholds)), SMALLEST, 1.0)


def _stay_point(labels: Bools, margins: Floats, offsets: Ints) -> dict[str, float | None]:
    """Alarm measures, given the margins of the log odds above their threshold."""
    shifted = UNCHANGED.probability(margins)
    alarms = alarm_statistics(labels, policy_alarms(shifted, offsets, 0.5), offsets)
    scores = stay_metrics.scores(labels, shifted, offsets, 0.5)
    return _finite(
        {
            "utility": scores.utility,
            "hours_in_alarm": float((shifted >= 0.5).mean()),
            "sensitivity": alarms.sensitivity,
            "ppv": alarms.ppv,
            "alarms_per_100_patient_days": alarms.alarms_per_100_patient_days,
        }
    )


def _ecg_point(labels: Bools, outputs: Bools) -> dict[str, float | None]:
    scores = ecg_metrics.scores(labels, outputs.astype(np.float64), outputs)
    false = (outputs & ~labels).sum(axis=1).mean()
    return _finite(
        {
            "challenge_metric": scores.challenge_metric,
            "f_measure": scores.f_measure.mean,
            "findings_per_recording": float(outputs.sum(axis=1).mean()),
            "false_findings_per_recording": float(false),
        }
    )


def _reliability(labels: Bools, probabilities: Floats) -> dict[str, Any]:
    """Reliability of probabilities, as a JSON-compatible dictionary."""
    table, line = reliability(labels, probabilities), calibration_line(labels, probabilities)
    found = _finite(
        {
            "slope": line.slope,
            "intercept": line.intercept,
            "brier": brier(labels, probabilities),
            "expected_calibration_error": table.expected_calibration_error,
        }
    )
    bins = [
        {"predicted": round(p, 6), "observed": round(o, 6), "n": n}
        for p, o, n in zip(
            table.predicted.tolist(), table.observed.tolist(), table.counts.tolist(), strict=True
        )
    ]
    return {**found, "bins": bins}


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: round(float(value), 6) if np.isfinite(value) else None for name, value in numbers.items()}


def _digest(names: Sequence[str], labels: Bools, probabilities: Floats) -> str:
    content = hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass"))
    content.update(np.packbits(labels).tobytes())
    content.update(np.ascontiguousarray(probabilities, dtype="<f8").tobytes())
    return content.hexdigest()


def _log_odds(probabilities: npt.ArrayLike) -> Floats:
    p = np.clip(np.asarray(probabilities, dtype=np.float64), SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(p / (1 - p)))


CARD, PICTURE = "card.md", "recalibration.svg"
SHIPPED_CARD = "## The card of the bundle that it was made from"
COLUMNS = {
    "utility": "utility 2019",
    "hours_in_alarm": "hours at or above the threshold",
    "sensitivity": "septic stays alarmed in time",
    "ppv": "alarms that are right",
    "alarms_per_100_patient_days": "alarms in 100 patient-days",
    "challenge_metric": "challenge metric 2021",
    "f_measure": "macro F",
    "findings_per_recording": "findings in a recording",
    "false_findings_per_recording": "false findings in a recording",
}


def write_site_bundle(
    folder: Path,
    shipped: Bundle,
    found: Recalibration,
    *,
    name: str | None = None,
    source: str = "",
    refused: dict[str, int] | None = None,
) -> Path:
    """Write the bundle into ``folder``, completely or not at all.

    Parameters
    ----------
    folder
        Must not exist, or must be empty.
    shipped
        The bundle that it is made from.
    found
        The recalibration.
    name
        Name of the new bundle; default: the shipped name with ``-recalibrated``.
    source
        Where the patients are from, as the contract states it.
    refused
        Inputs that were refused, by code.

    Raises
    ------
    BundleError
        The folder is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder}: exists already; name a new folder")
    calibration = found.calibration(shipped.calibration)
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    entry: dict[str, Any] = {
        "of": {"name": shipped.name, "version": shipped.version, "sha256": shipped.sha256},
        "ibt": __version__,
        "created": created,
        "source": source,
        "counts": found.counts,
        "refused": refused or {},
        "data_sha256": found.data_sha256,
        "folds": FOLDS,
        "classes": list(found.changed),
        "slope": found.line.slope.tolist(),
        "intercept": found.line.intercept.tolist(),
        "before": found.before,
        "after": found.after,
    }
    contract = shipped.contract | {
        "name": name or f"{shipped.name.removesuffix('-recalibrated')}-recalibrated",
        "created": created,
        "calibration": {
            "kind": "platt",
            "slope": calibration.slope.tolist(),
            "intercept": calibration.intercept.tolist(),
            "methods": ["site"] * len(calibration.slope),
        },
        "operating_points": {
            point: shipped.contract["operating_points"][point]
            | {"thresholds": thresholds.tolist(), "description": found.descriptions[point]}
            for point, thresholds in found.thresholds.items()
        },
        "recalibration": entry,
    }
    picture = reliability_svg(
        "reliability on the site's patients",
        [
            (title, [(b["predicted"], b["observed"]) for b in found_part["bins"]])
            for title, found_part in (("as shipped", found.before), ("recalibrated", found.after))
        ],
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            new = Path(temporary) / "bundle"
            new.mkdir()
            for file in shipped.files:
                if file not in (CARD, PICTURE):
                    shutil.copyfile(shipped.path / file, new / file)
            (new / PICTURE).write_text(picture, encoding="utf-8")
            (new / CARD).write_text(site_card(contract, _shipped_card(shipped)), encoding="utf-8")
            files = sorted(path for path in new.iterdir())
            sealed = contract | {"files": {path.name: file_sha256(path) for path in files}}
            text = json.dumps(sealed, indent=1, allow_nan=False) + "\n"
            (new / CONTRACT).write_text(text, encoding="utf-8")
            new.replace(folder)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return folder


def _shipped_card(shipped: Bundle) -> str:
    """The card of the original bundle, without what an earlier recalibration put before it."""
    if CARD not in shipped.files:
        return ""
    return shipped.card.split(f"{SHIPPED_CARD}\n", 1)[-1].lstrip("\n")


def site_card(contract: dict[str, Any], shipped_card: str) -> str:
    """The card as Markdown: the recalibration, then the shipped card under a heading of its own."""
    entry = contract["recalibration"]
    of = entry["of"]
    counted = ", ".join(f"{count(n)} {what}" for what, n in entry["counts"].items())
    refused = ", ".join(f"{n} {code}" for code, n in entry["refused"].items())
    lines = [
        f"# {contract['name']} {contract['version']}",
        "",
        f"**{NOTICE}**",
        "",
        f"{of['name']} {of['version']} (sha256 `{of['sha256'][:12]}`) with calibration and thresholds of one "
        f"site: {entry['source'] or 'not named'}; {counted}. Graph and preprocessing are unchanged. Made "
        f"{entry['created']} with ibt {entry['ibt']}.",
        *(["", f"Refused by scoring: {refused}."] if refused else []),
        *(["", f"Fitted classes: {', '.join(entry['classes'])}."] if entry["classes"] else []),
        "",
        "## On the site's patients, before and after",
        "",
        f"Before: as shipped. After: cross-fitted in {entry['folds']} folds, so that no patient judges a "
        "line or a threshold that he or she helped to choose. The bundle itself was fitted on all of them.",
        *table(
            ["", "slope>", "intercept>", "Brier score>", "expected calibration error>"],
            [_reliability_row(when, entry[when]) for when in ("before", "after")],
        ),
        f"![reliability before and after]({PICTURE})",
        *_points(entry),
        "Operating points:",
        "",
        *(f"- `{name}`: {point['description']}" for name, point in contract["operating_points"].items()),
        "",
        "## What to mind",
        "",
        "- These figures are of the site's own patients of one time; `ibt monitor` shows when they no longer "
        "look alike.",
        "- A recalibration changes how probabilities and thresholds are read, never which patient is ranked "
        "above which within a class.",
        "- All that the card below says of probabilities, thresholds and alarms holds for the shipped "
        "bundle, before this recalibration.",
        "",
    ]
    if shipped_card:
        lines += [SHIPPED_CARD, "", shipped_card]
    return "\n".join(lines).rstrip("\n") + "\n"


def _reliability_row(when: str, found: dict[str, Any]) -> list[str]:
    return [
        when,
        decimal(found["slope"]),
        decimal(found["intercept"]),
        decimal(found["brier"], 5),
        decimal(found["expected_calibration_error"], 5),
    ]


def _points(entry: dict[str, Any]) -> list[str]:
    measures = list(next(iter(entry["before"]["points"].values())))
    rows = [
        [f"`{name}`", when, *(decimal(entry[when]["points"][name][measure]) for measure in measures)]
        for name in entry["before"]["points"]
        for when in ("before", "after")
    ]
    return table(["operating point", "", *(f"{COLUMNS[measure]}>" for measure in measures)], rows)
