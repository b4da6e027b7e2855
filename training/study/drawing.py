"""The study's figures, drawn from ``results.json`` and the similarity arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.render.report import count
from ibt_deploy.types import NOUNS
from training.study.charts import (
    AlarmCurve,
    BarPanel,
    alarm_curves,
    attention_maps,
    attention_numbers,
    bar_chart,
    cka_maps,
    learning_curves,
    reliability_diagrams,
    write,
)
from training.study.shipped import EVERYBODY
from training.study.similarity import CEILING, Similarities
from training.study.study import TEST
from training.study.tables import FIGURES, METHODS, STUDENTS, TITLES, at, figure_file
from training.tasks import TASKS
from training.tasks.base import FREE, TUNED

BLOCK_NUMBERS = ("distance", "local_mass", "toeplitz_share", "entropy")


def draw_figures(results: Mapping[str, Any], similarities: Similarities, folder: Path) -> None:
    """Draw the figures into ``folder``, under the names of :data:`FIGURES`."""
    paths = {name: folder / file for name, file in FIGURES.items()}
    note = f"Test part: {_size(results, TEST)}."
    _scores(results, note, paths["scores"])
    _curves(results, note, paths["curves"])
    for place in results["similarity"]:
        where = "the test part" if place == TEST else place
        shown = note if place == TEST else f"{place}: {_size(results, place)}."
        _cka(results, place, shown, folder / figure_file("cka", place))
        _attention(results, place, where, similarities, folder)
    _shipped(results, note, paths)


def _size(results: Mapping[str, Any], place: str) -> str:
    sizes, unit = results["data"]["sets"][place], NOUNS[results["task"]]
    return f"{count(sizes[unit])} {unit} of {count(sizes['patients'])} patients"


def _scores(results: Mapping[str, Any], note: str, path: Path) -> None:
    found, official = results["table2"]["methods"], results["official"]
    paper = results["paper"]["table2"]
    panels = []
    for row, measure in ((TUNED, official), (TUNED, "f_measure"), (FREE, "auroc"), (FREE, "auprc")):
        estimates = {m: at(found, m, row, measure) for m in METHODS}
        measured = {m: estimate for m, estimate in estimates.items() if estimate is not None}
        theirs = {m: paper[m][measure] for m in measured if measure in paper[m]}
        if measured:
            panels.append(BarPanel(TITLES[measure], TITLES[measure], measured, theirs))
    if panels:
        write(bar_chart(panels, note), path)


def _curves(results: Mapping[str, Any], note: str, path: Path) -> None:
    panels = {}
    for row, measure in ((TUNED, results["official"]), (FREE, "auprc")):
        points = [
            {
                "fraction": point["fraction"],
                "patients": point["patients"],
                "method": method,
                "estimate": estimate,
            }
            for point in results["curves"].get("points", ())
            for method in METHODS
            if (estimate := at(point["methods"], method, row, measure)) is not None
        ]
        if points:
            panels[TITLES[measure]] = points
    if panels:
        write(learning_curves(panels, note), path)


def _cka(results: Mapping[str, Any], place: str, note: str, path: Path) -> None:
    found = results["similarity"][place]["cka"].get("arms", {})
    matrices = {
        name: np.array(found[name]["units"], dtype=np.float64)
        for name in (*STUDENTS, CEILING)
        if name in found
    }
    if not matrices:
        return
    units = (f"teacher: {TASKS[results['task']].teacher_unit}", "student: block")
    n_groups = len(next(iter(found.values()))["diagonal"])
    rows, columns = next(iter(matrices.values())).shape
    ends = [(rows // n_groups * i, columns // n_groups * i) for i in range(1, n_groups + 1)]
    write(cka_maps(matrices, note, groups=() if n_groups == rows else ends, units=units), path)


def _attention(
    results: Mapping[str, Any], place: str, where: str, similarities: Similarities, folder: Path
) -> None:
    found = results["similarity"][place]["attention"]
    if not found:
        return
    deit = results["table2"]["deit"]
    arms = {name: deit if name == "deit" else name for name in STUDENTS}
    for seed in results["seeds"]:
        kept = {name: similarities.attention(arm, seed, place) for name, arm in arms.items() if arm}
        if shown := {name: arrays for name, arrays in kept.items() if arrays is not None}:
            break
    note = f"{count(found['records'])} records of {where}."
    one = next(iter(shown.values()), None)
    if one is not None:
        averaged = {name: arrays["averaged"] for name, arrays in shown.items()}
        maps = attention_maps(
            averaged, note, token=found["token"], reached=one["reached"] if found["causal"] else None
        )
        write(maps, folder / figure_file("attention", place))
    numbers = {
        name: {
            kind: [e if isinstance(e, Mapping) else {"value": e, "interval": None} for e in values[kind]]
            for kind in BLOCK_NUMBERS
        }
        for name, values in found["arms"].items()
        if name in STUDENTS
    }
    unit = "h" if found["causal"] else f"tokens of {found['token']}"
    titles = {
        "distance": f"mean distance\n({unit})",
        "local_mass": f"share of attention\nwithin {found['window']} {'h' if found['causal'] else 'tokens'}",
    }
    drawn = attention_numbers(numbers, note, uniform=found["uniform"], titles=titles)
    write(drawn, folder / figure_file("attention_numbers", place))


def _shipped(results: Mapping[str, Any], note: str, paths: Mapping[str, Path]) -> None:
    found = results["shipped"]
    if "calibration" not in found.get(EVERYBODY, {}):
        return
    panels = {"all": {"all": found[EVERYBODY]["calibration"]["reliability"]}}
    for kind, values in found["groups"].items():
        curves = {
            value: entry["calibration"]["reliability"]
            for value, entry in values.items()
            if "calibration" in entry
        }
        if curves:
            panels[f"by {kind}"] = curves
    write(reliability_diagrams(panels, f"{found['model']} {found['version']}. {note}"), paths["reliability"])
    if "alarm_curve" in found[EVERYBODY]:
        names = {"all": found[EVERYBODY]} | found["groups"]["hospital"]
        curves_of = {name: _alarm_curve(entry) for name, entry in names.items() if "alarm_curve" in entry}
        everybody = {"all stays": {"all": curves_of.pop("all")}}
        panel = everybody | ({"by hospital": curves_of} if curves_of else {})
        write(alarm_curves(panel, f"{found['model']} {found['version']}. {note}"), paths["alarms"])


def _alarm_curve(entry: Mapping[str, Any]) -> AlarmCurve:
    curve = entry["alarm_curve"]
    points = {
        name: (point["alarms_per_100_patient_days"]["value"], point["sensitivity"]["value"])
        for name, point in entry["operating_points"].items()
        if point["alarms"]  # zero alarms cannot be drawn on a logarithmic axis
    }
    return AlarmCurve(curve["alarms_per_100_patient_days"], curve["sensitivity"], points)
