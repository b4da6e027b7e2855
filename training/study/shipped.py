"""The shipped model in use: calibration, and alarms or findings at every operating point, by group.

The bundle is scored through the product itself, :class:`ibt_deploy.predictor.Predictor`, so that the figures
are those that users get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ibt_deploy.bundle import Bundle
from ibt_deploy.calibration import calibration_line, reliability
from ibt_deploy.decisions import decisions
from ibt_deploy.files import file_sha256
from ibt_deploy.metrics import bootstrap
from ibt_deploy.metrics.ranking import brier
from ibt_deploy.metrics.sepsis import alarm_burden, alarm_statistics, policy_alarms
from ibt_deploy.predictions import ArrhythmiaPrediction, Prediction, SepsisPrediction
from ibt_deploy.predictor import load
from ibt_deploy.render.report import count, decimal, table
from ibt_deploy.types import Bools, Floats, Ints, Task
from training.data.split import PARTS, packaged_split, parts_by_id
from training.study.measures import OUTPUTS, subject_sha256
from training.study.study import TEST, Arrays, Study, Subject, kept
from training.study.tables import at, cell, figure, image, number
from training.tasks.base import Truth

SHIPPED = "shipped"
VERSION = 1
FEWEST = 20
"""Least number of septic stays, or positive labels, for which a subgroup gets figures."""
EVERYBODY = "all"
CURVE_POINTS = 60


def shipped_table(study: Study, draws: int, bundle: str | None = None) -> dict[str, Any]:
    """All results of the bundle on the test part.

    Parameters
    ----------
    study
        Study whose test part the bundle scores.
    draws
        Number of bootstrap draws.
    bundle
        A bundle's directory; by default the packaged one of the task.

    Returns
    -------
    Plain data; with ``not_run`` in place of figures if the bundle was trained or tuned on test patients, or
    may have been because it was made under another split of the same data. ``disjoint`` is None if this is
    unknown, because the split of the bundle is not the packaged one.
    """
    predictor = load(bundle or study.task, device="cpu")
    model = predictor.bundle
    data = dict(model.contract["training"]["data"])
    head = {
        "model": model.name,
        "version": model.version,
        "sha256": model.sha256,
        "own_data": data["cache_sha256"] == study.cohort.cache.sha256,
    }
    if head["own_data"] and data["split_sha256"] != study.cohort.split_sha256:
        return head | {"not_run": "the bundle was trained under another split of these data"}
    test = Subject(study.cohort, study.cohort.items("test"))
    if not head["own_data"]:
        learnt = _learnt_ids(study.task, data["split_sha256"])
        shared = len(learnt.intersection(study.cohort.ids[i] for i in test.items))
        if shared:
            return head | {"not_run": f"the bundle was trained or tuned on {shared} of these test records"}
        head["disjoint"] = bool(learnt) or None
    answers = kept(
        study.out / OUTPUTS / f"{SHIPPED}.npz",
        {"version": VERSION, "bundle": model.sha256, "set": subject_sha256(test)},
        lambda: _answers(predictor.predict_many(test.cohort.records(test.items))),
    )
    accepted = answers["accepted"]
    truth = test.cohort.truth(test.items).chosen(accepted)
    groups = {name: values[accepted] for name, values in test.cohort.groups(test.items).items()}
    judge = JUDGES[study.task]
    everybody = np.ones(int(accepted.sum()), dtype=bool)
    p = answers["probabilities"]
    return head | {
        "set": TEST,
        "refused": int((~accepted).sum()),
        EVERYBODY: judge(model, truth, p, everybody, draws),
        "groups": {
            name: {
                value: judge(model, truth, p, values == value, draws)
                for value in sorted(set(values.tolist()))
            }
            for name, values in groups.items()
        },
    }


def _answers(answers: Any) -> Arrays:
    accepted, probabilities = [], []
    for answer in answers:
        accepted.append(isinstance(answer, Prediction))
        if isinstance(answer, ArrhythmiaPrediction):
            probabilities.append(answer.probabilities[None])
        elif isinstance(answer, SepsisPrediction):
            probabilities.append(answer.risk)
    return {"accepted": np.array(accepted), "probabilities": np.concatenate(probabilities)}


def _judge_stays(model: Bundle, truth: Truth, risk: Floats, chosen: Bools, draws: int) -> dict[str, Any]:
    rows = np.repeat(chosen, np.diff(truth.offsets))
    part, p = truth.chosen(chosen), risk[rows]
    labels, offsets = part.labels, part.offsets
    septic = len(np.unique(part.patients[labels > 0]))
    table: dict[str, Any] = {"stays": int(chosen.sum()), "septic": septic, "hours": len(labels)}
    if septic < FEWEST:
        return table
    table["calibration"] = _calibration(labels > 0, p, part.patients, part.n_patients, draws)
    table["alarm_curve"] = _alarm_curve(labels, p, offsets)
    table["operating_points"] = {}
    for name, point in model.operating_points.items():
        threshold = float(point.thresholds[0])
        given = policy_alarms(p, offsets, threshold)
        rates = bootstrap.alarm_rates(labels, given, offsets) | {
            "utility": bootstrap.utility(labels, p >= threshold, offsets)
        }
        found = alarm_statistics(labels, given, offsets)
        table["operating_points"][name] = (
            {"threshold": number(threshold), "alarms": found.n_alarms}
            | _figures(rates, part.n_patients, draws)
            | {
                "lead_time_quartiles": [number(hours) for hours in found.lead_time],
                "number_needed_to_evaluate": number(found.number_needed_to_evaluate),
                "only_after_onset": number(found.only_after_onset),
            }
        )
    return table


def _alarm_curve(labels: Ints, risk: Floats, offsets: Ints) -> dict[str, Any]:
    """Sensitivity and alarms as the threshold rises."""
    highest = np.maximum.reduceat(risk, offsets[:-1])
    thresholds = np.unique(np.quantile(highest, np.linspace(0, 1, CURVE_POINTS)))
    burden = alarm_burden(labels, risk, offsets, thresholds)
    return {
        "threshold": [number(t) for t in thresholds],
        "alarms_per_100_patient_days": [number(100 * rate) for rate in burden.alarms_per_patient_day],
        "sensitivity": [number(share) for share in burden.sensitivity],
    }


def _judge_ecgs(model: Bundle, truth: Truth, p: Floats, chosen: Bools, draws: int) -> dict[str, Any]:
    part = truth.chosen(chosen)
    evaluable = np.array([c.evaluable for c in model.classes])
    known = part.known & evaluable
    positives = int((part.labels & known).sum())
    table: dict[str, Any] = {
        "recordings": int(chosen.sum()),
        "patients": part.n_patients,
        "positive_labels": positives,
        "classes": int(evaluable.sum()),
    }
    if positives < FEWEST:
        return table
    patients = np.broadcast_to(part.patients[:, None], known.shape)[known]
    labels = part.labels[known]
    table["calibration"] = _calibration(labels, p[chosen][known], patients, part.n_patients, draws)
    table["operating_points"] = {}
    for name, point in model.operating_points.items():
        given = decisions(p[chosen], point.thresholds, evaluable, exclusive=point.exclusive)
        pooled = given[known]
        statistics = {
            "sensitivity": bootstrap.ratio(labels & pooled, labels, patients),
            "ppv": bootstrap.ratio(labels & pooled, pooled, patients),
            "findings_per_100_recordings": bootstrap.ratio(
                100 * given.sum(axis=1), np.ones(len(given)), part.patients
            ),
            "challenge_metric": bootstrap.challenge_metric(part.labels, given, part.patients, part.known),
        }
        table["operating_points"][name] = _figures(statistics, part.n_patients, draws)
    return table


JUDGES: Mapping[Task, Callable[..., dict[str, Any]]] = {"arrhythmia": _judge_ecgs, "sepsis": _judge_stays}


def _calibration(labels: Bools, p: Floats, patients: Ints, n_patients: int, draws: int) -> dict[str, Any]:
    """Slope, intercept, Brier score, and ten bins of equal count with intervals of the observed frequency."""
    line, table = calibration_line(labels, p), reliability(labels, p)
    order = np.argsort(p, kind="stable")
    bins = np.empty(len(p), dtype=np.int64)
    bins[order] = np.repeat(np.arange(len(table.counts)), table.counts)
    statistics: dict[str, bootstrap.Statistic] = {
        f"bin {b}": bootstrap.ratio(labels & (bins == b), bins == b, patients)
        for b in range(len(table.counts))
    }
    statistics["brier"] = bootstrap.ratio((p - labels) ** 2, np.ones(len(p)), patients)
    found = _figures(statistics, n_patients, draws)
    return {
        "slope": number(line.slope),
        "intercept": number(line.intercept),
        "brier": found["brier"],
        "brier_of_prevalence": number(brier(labels, np.full(len(p), labels.mean()))),
        "expected_calibration_error": number(table.expected_calibration_error),
        "reliability": [
            {
                "predicted": number(predicted),
                "observed": number(observed),
                "interval": found[f"bin {b}"]["interval"],
                "n": int(n),
            }
            for b, (predicted, observed, n) in enumerate(
                zip(table.predicted, table.observed, table.counts, strict=True)
            )
        ],
    }


def _figures(
    statistics: dict[str, bootstrap.Statistic], n_patients: int, draws: int
) -> dict[str, dict[str, Any]]:
    drawn = bootstrap.drawn_values(statistics, n_patients, draws=draws)
    return {
        name: {part: found for part, found in figure({0: values}).items() if part in ("value", "interval")}
        for name, values in drawn.items()
    }


def _learnt_ids(task: Task, split_sha256: str) -> set[str]:
    """Records of the training and validation parts under the packaged split; empty if the hash differs."""
    split = packaged_split(task)
    if split is None or file_sha256(split) != split_sha256:
        return set()
    return {name for name, part in parts_by_id(split).items() if PARTS[part] != TEST}


def shipped_section(results: Mapping[str, Any], drawn: Mapping[str, str]) -> list[str]:
    """Calibration and operating points by group; ``drawn`` holds the paths of the figures."""
    found = results["shipped"]
    lines = ["", "### The shipped model: calibration and operating points"]
    if "not_run" in found:
        return [*lines, "", f"not run: {found['not_run']}"]
    draws = count(results["bootstrap"]["draws"])
    own = "the test part of the data it was trained on"
    if not found["own_data"]:
        own = (
            "data it was not trained on" if found["disjoint"] else "a cache other than the one it learnt from"
        )
    lines += [
        "",
        f"`{found['model']}` {found['version']} (`{found['sha256'][:12]}`), scored by the released package "
        f"on {own}; {found['refused']} refused. 95 % intervals over patients, {draws} draws; groups with "
        f"fewer than 20 {'septic stays' if 'septic' in found[EVERYBODY] else 'positive labels'} get no "
        "figures. "
        f"`{results['command']} --no-train`",
    ]
    if "calibration" not in found[EVERYBODY]:
        return [*lines, "", "Too few positives for figures."]
    lines += image("Reliability: ten bins of equal count", drawn["reliability"])
    lines += ["**Calibration**", *_calibration_rows(found)]
    alarms = "alarm_curve" in found[EVERYBODY]
    for name in found[EVERYBODY]["operating_points"]:
        lines += [f"**Operating point `{name}`**", *(_alarms if alarms else _findings)(found, name)]
    if alarms:
        lines += [
            *image("Sensitivity against alarm burden", drawn["alarms"]),
            "An alarm is correct from 12 h before to 3 h after onset; each alarm is followed by 6 h of "
            "silence. Lead time is from the first correct alarm to onset, median and quartiles, in hours; "
            "sensitivity is the share of septic stays with a correct alarm.",
        ]
    else:
        lines += [
            "Sensitivity and PPV are over all findings of evaluable classes together, so common classes "
            "dominate.",
        ]
    return lines


def _groups(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield EVERYBODY, found[EVERYBODY]
    for kind, values in found["groups"].items():
        for value, entry in values.items():
            yield f"{kind}: {value}", entry


def _size(entry: Mapping[str, Any]) -> str:
    if "stays" in entry:
        return f"{count(entry['stays'])} ({count(entry['septic'])} septic)"
    return f"{count(entry['recordings'])} ({count(entry['positive_labels'])} labels)"


def _calibration_rows(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for title, entry in _groups(found):
        line = entry.get("calibration")
        if line is None:
            rows.append([title, _size(entry), *["-"] * 5])
            continue
        rows.append(
            [
                title,
                _size(entry),
                decimal(line["slope"]),
                decimal(line["intercept"]),
                cell(line["brier"], 4),
                decimal(line["brier_of_prevalence"], 4),
                decimal(line["expected_calibration_error"], 4),
            ]
        )
    header = ("group", "n", "slope>", "intercept>", "Brier", "Brier of the prevalence>", "ECE>")
    return table(header, rows)


def _alarms(found: Mapping[str, Any], name: str) -> list[str]:
    rows = []
    for title, entry in _groups(found):
        point = at(entry, "operating_points", name)
        if point is None:
            rows.append([title, _size(entry), *["-"] * 5])
            continue
        low, median, high = (decimal(hours, 1) for hours in point["lead_time_quartiles"])
        rates = [cell(point[kind]) for kind in ("utility", "sensitivity", "ppv")]
        burden = cell(point["alarms_per_100_patient_days"], 1)
        rows.append([title, _size(entry), *rates, burden, f"{median} ({low} to {high})"])
    header = ("group", "n", "utility", "sensitivity", "PPV", "alarms per 100 patient-days", "lead time (h)")
    return table(header, rows)


def _findings(found: Mapping[str, Any], name: str) -> list[str]:
    rows = []
    for title, entry in _groups(found):
        point = at(entry, "operating_points", name)
        if point is None:
            rows.append([title, _size(entry), *["-"] * 4])
            continue
        rates = [cell(point[kind]) for kind in ("challenge_metric", "sensitivity", "ppv")]
        rows.append([title, _size(entry), *rates, cell(point["findings_per_100_recordings"], 0)])
    header = ("group", "n", "challenge metric", "sensitivity", "PPV", "findings per 100 ECGs")
    return table(header, rows)
