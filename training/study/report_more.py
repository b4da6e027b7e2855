"""The sections that go beyond the paper's tables: controls, learning curves, external scores, limitations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ibt_deploy.render.markdown import count, table
from training.study.claims import NAMES, TITLES
from training.study.decisions import TUNED
from training.study.markdown import NOT_RUN, at, cell, gap, image
from training.study.measures import FREE
from training.study.report_words import purpose_of, set_name, source
from training.study.tables import METHODS

CONTROL_TITLES = {
    "bbm-untrained": "BBM from an untrained teacher",
    "bbm-shuffled": "BBM, teacher sees another record",
    "bbm-eq-2": "BBM, only Eq. 2",
    "bbm-eq-3": "BBM, only Eq. 3",
    "bbm-eq-4": "BBM, only Eq. 4",
    "transformer-long": "Transformer, trained for the time of BBM",
}


def controls_section(results: Mapping[str, Any]) -> list[str]:
    """Each control against the plain transformer and BBM."""
    found, official = results["controls"], results["official"]
    rows = []
    for arm, title in CONTROL_TITLES.items():
        cells = [NOT_RUN] * 5
        if arm in found["arms"]:
            cells = [
                cell(at(found["arms"], arm, TUNED, official)),
                cell(at(found["arms"], arm, FREE, "auprc")),
                cell(found["agreement"].get(arm)),
                gap(at(found["differences"], f"{arm} - transformer", TUNED, official)),
                gap(at(found["differences"], f"{arm} - bbm", TUNED, official)),
            ]
        rows.append([title, *cells])
    title = TITLES[official]
    header = ("control", title, "AUPRC", "R² with the teacher", "against Transformer", "against BBM")
    return [
        "",
        "### Controls",
        *table(header, rows),
        f"Differences are in {title}, tuned. {source(results, 'test', 'controls')}.",
    ]


def curves_section(results: Mapping[str, Any], drawn: Mapping[str, str]) -> list[str]:
    """Score by number of training patients; nothing for ECGs."""
    curves, official = results["curves"], results["official"]
    if not curves:
        return []
    rows = []
    for point in curves["points"]:
        cells = [cell(at(point["methods"], name, TUNED, official)) for name in METHODS]
        against = at(point["differences"], "bbm - transformer", TUNED, official)
        rows.append([f"{100 * point['fraction']:g} %", count(point["patients"]), *cells, gap(against)])
    gaps = [f"{pair}: {gap(found)}" for pair, found in curves.get("gaps", {}).items() if found is not None]
    lines = [
        "",
        "### Learning curves",
        *(image("Score by number of training patients", drawn["curves"]) if _any(curves) else []),
        *table(
            ("share", "patients>", *(NAMES[m] for m in METHODS), "BBM - Transformer"),
            rows,
        ),
    ]
    if gaps:
        lines += [
            f"Change of the difference from all patients to {100 * curves['smallest']:g} %: "
            f"{'; '.join(gaps)}.",
            "",
        ]
    return [*lines, f"{TITLES[official]}, tuned thresholds. {source(results, 'test', 'fractions')}."]


def _any(curves: Mapping[str, Any]) -> bool:
    return any(point["methods"] for point in curves["points"])


def external_section(results: Mapping[str, Any]) -> list[str]:
    """Scores where nothing was trained."""
    lines = ["", "### External tests: scores"]
    if not results["external"]:
        return [*lines, "", NOT_RUN]
    official = results["official"]
    for place, found in results["external"].items():
        rows = []
        for name in METHODS:
            values = found["methods"].get(name)
            pairs = ((TUNED, "f_measure"), (TUNED, official), (FREE, "auroc"), (FREE, "auprc"))
            cells = [cell(at(values, row, m)) if at(values, row, m) else "-" for row, m in pairs]
            rows.append([NAMES[name], *(cells if values else [NOT_RUN] * 4)])
        header = ("method", "F-1", TITLES[official], "AUROC", "AUPRC")
        against = at(found["differences"], "bbm - transformer", TUNED, official)
        told = f"BBM - Transformer in {TITLES[official]}: {gap(against)}. " if against else ""
        place_name = set_name(results, place, found)
        lines += ["", f"**{place[0].upper()}{place[1:]}**", *table(header, rows)]
        lines += [f"{told}Thresholds from validation. {source(results, place_name, purpose_of(found))}."]
    return lines


def limits_section(results: Mapping[str, Any]) -> list[str]:
    """What these numbers cannot say."""
    seeds = len(results["seeds"])
    lines = [
        f"Seeds: {seeds}. "
        + (
            "One seed says nothing about how much chance in training decides."
            if seeds == 1
            else "The range over seeds, not an interval, is what so few can show."
        ),
        f"Budget `{results['budget']}`: {_epochs(results, 'teacher')} epochs for the teacher, "
        f"{_epochs(results, 'student')} for students. A method that gains from longer training is not at its "
        "best in a short schedule, and the order may change with the budget.",
        "Hyper-parameters are the budget's, alike for all students; no search of equal length for each "
        "method stands behind these tables.",
        "The paper leaves record length, widths, schedules, R², the CKA estimator and the DeiT variant open; "
        "our readings are in the design, and another reading may give other numbers.",
        "Differences within an interval are not resolved; that is not evidence of no difference.",
        "Many differences are tested; about one in twenty intervals excludes 0 by chance.",
    ]
    if results["task"] == "sepsis":
        lines += [
            "The external tests are the other of two hospitals of one country; the paper's were eICU.",
            "Whether a value was measured is an input, and says what clinicians already suspected.",
        ]
    else:
        lines += [
            f"The ECGs are {_largest_source(results)}; other sources are small, so that intervals of "
            "external tests are wide and rare classes are not evaluable.",
            "Labels and sources are entangled: a class that only one source has can be read off its signals.",
        ]
    return ["", "### Limitations", "", *(f"- {line}" for line in lines)]


def _epochs(results: Mapping[str, Any], role: str) -> int:
    return int(results["budget_tables"][role]["fit"]["epochs"])


def _largest_source(results: Mapping[str, Any]) -> str:
    sites = results["data"]["sites"]
    largest = max(sites, key=sites.get)
    return f"{count(sum(sites.values()))} recordings, {count(sites[largest])} of them from {largest}"


def left_section(results: Mapping[str, Any]) -> list[str]:
    """What was planned and not trained, with the command that trains it."""
    left: dict[str, list[str]] = {}
    for run in results["runs"]:
        if not run["trained"]:
            left.setdefault(run["purpose"], []).append(run["name"])
    lines = ["", "### Not run"]
    if left:
        rows = [
            [purpose, str(len(names)), ", ".join(names), f"`{results['command']} --only {purpose}`"]
            for purpose, names in left.items()
        ]
        lines += table(("for", "runs>", "which", "command"), rows)
    else:
        lines += ["", "Every run of this budget was trained.", ""]
    task = results["task"]
    if results["budget"] != "gpu":
        lines += [
            "The whole study (five seeds, long schedules, all learning curves) was not run: "
            f"`ibt reproduce {task} --data cache/{task} --out study/{task}-gpu --budget gpu --jobs 4`.",
        ]
    return lines
