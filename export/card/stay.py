"""Sections of a card specific to stays."""

from __future__ import annotations

from typing import Any

from ibt_deploy.evaluation import in_order
from ibt_deploy.render.report import count, counted, decimal, ranged, table
from training.data.split import PARTS

TITLES = {"hospital": "hospital", "sex": "sex", "age": "age", "unit": "intensive care unit"}


def stay_sections(contract: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Data and figures of a sepsis model."""
    test = contract["metrics"]["test"]
    figures = ["## Figures on the test part", "", _about(test), *_all_figures(contract, test, "###")]
    for name, found in contract["metrics"]["external"].items():
        if "thresholds" not in found:
            figures += [f"## {name} (external, without labels)", "", *_unlabelled(test, found)]
            continue
        figures += [
            f"## Figures on {name} (external)",
            "",
            _about(found),
            *_all_figures(contract, found, "###"),
        ]
    return _data(contract), figures


def _data(contract: dict[str, Any]) -> list[str]:
    parts = contract["training"]["data"]["parts"]
    rows = [
        [
            name,
            count(parts[name]["stays"]),
            count(parts[name]["septic"]),
            count(parts[name]["septic_from_first_hour"]),
            count(parts[name]["hours"]),
            count(parts[name]["positive_hours"]),
            counted({h: e["stays"] for h, e in parts[name]["groups"]["hospital"].items()}),
        ]
        for name in PARTS
    ]
    preparation = contract["training"]["data"]["preparation"]
    return [
        "## Data",
        "",
        "Patients are divided once, stratified by hospital, sepsis and length of stay; one patient is in one "
        "part.",
        *table(
            [
                "part",
                "stays>",
                "septic>",
                "septic from the first hour>",
                "hours>",
                "positive hours>",
                "hospitals",
            ],
            rows,
        ),
        f"Refused in preparation: {counted(preparation['refused'])}. Outcome: `SepsisLabel`, 1 from six "
        "hours before onset (Sepsis-3) on. Hours in which nothing was measured are part of the data; a "
        "missing value is filled with the last one, or with the training median before the first "
        "measurement.",
        "",
    ]


def _about(found: dict[str, Any]) -> str:
    return (
        f"{count(found['stays'])} stays, {count(found['septic'])} septic; {count(found['hours'])} hours, "
        f"{count(found['positive_hours'])} of them positive. Refused by scoring: {counted(found['refused'])}."
    )


def _unlabelled(test: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Risk and alarms of a set without labels, next to those of the test part."""
    names = [name for name in found["burden"] if name != "mean_risk"]
    rows = [["mean risk", ranged(test["burden"]["mean_risk"], 4), ranged(found["burden"]["mean_risk"], 4)]]
    rows += [
        [f"hours in alarm at `{name}`", ranged(test["burden"][name]), ranged(found["burden"][name])]
        for name in names
    ]
    return [
        f"{count(found['stays'])} stays, {count(found['hours'])} hours. Refused by scoring: "
        f"{counted(found['refused'])}. Without labels, correct alarms cannot be identified; if the "
        "share of hours in alarm is far from that of the test part, recalibrate before use. Nothing was "
        "tuned on this set.",
        *table(["", "test part>", "here>"], rows),
    ]


def _all_figures(contract: dict[str, Any], found: dict[str, Any], level: str) -> list[str]:
    return [
        *_thresholds(contract, found),
        *_alarms(found, level),
        *_calibration(found, level),
        *_groups(found, level),
    ]


def _thresholds(contract: dict[str, Any], found: dict[str, Any]) -> list[str]:
    rows = []
    for name, row in found["thresholds"].items():
        default = " (default)" if name == contract["default_operating_point"] else ""
        fixed = name not in contract["operating_points"]
        title = f"fixed {name}" if fixed else f"`{name}`{default}"
        rows.append(
            [title, decimal(row["threshold"], 4), ranged(row["utility"]), ranged(row["f_measure"]), "", ""]
        )
    free = found["threshold_free"]
    rows.append(["threshold-free", "", "", "", ranged(free["auroc"]), ranged(free["auprc"])])
    return table(
        ["thresholds", "threshold>", "utility 2019>", "F (hours)>", "AUROC (hours)>", "AUPRC (hours)>"], rows
    )


def _alarms(found: dict[str, Any], level: str) -> list[str]:
    rows = []
    silence = 0
    for name, a in found["alarms"].items():
        silence = a["silence_hours"]
        low, median, high = (decimal(hours, 0) for hours in a["lead_time_hours"])
        late = a["only_after_onset"]
        rows.append(
            [
                f"`{name}`",
                ranged(a["sensitivity"]),
                ranged(a["ppv"]),
                ranged(a["alarms_per_100_patient_days"], 1),
                decimal(a["number_needed_to_evaluate"], 1),
                f"{median} ({low} to {high})",
                "-" if late is None else f"{late:.0%}",
            ]
        )
    return [
        f"{level} What the alarms mean",
        "",
        f"An alarm is given when the risk reaches the threshold, then there is silence for {silence} hours, "
        "then another if the risk has risen. It is right from 12 h before to 3 h after onset; alarms that "
        "come earlier, later or in stays without sepsis are false.",
        *table(
            [
                "operating point",
                "septic stays alarmed in time>",
                "PPV (alarms that are right)>",
                "alarms per 100 patient-days>",
                "alarms for one that is right>",
                "hours before onset, median (quartiles)>",
                "first alarm only after onset>",
            ],
            rows,
        ),
    ]


def _calibration(found: dict[str, Any], level: str) -> list[str]:
    c = found["calibration"]
    rows = [[decimal(b["predicted"], 4), decimal(b["observed"], 4), count(b["n"])] for b in c["bins"]]
    return [
        f"{level} Calibration",
        "",
        f"Slope {decimal(c['slope'])}, intercept {decimal(c['intercept'])} (1 and 0 are ideal), Brier score "
        f"{decimal(c['brier'], 5)}, expected calibration error {decimal(c['expected_calibration_error'], 5)} "
        "(small for any model at this prevalence). Tenths of the hours by predicted risk:",
        *table(["mean risk>", "observed share>", "hours>"], rows),
    ]


def _groups(found: dict[str, Any], level: str) -> list[str]:
    rows = []
    for name, title in TITLES.items():
        groups = in_order(found["groups"].get(name, {}))
        # a single group is the whole set, whose figures are above
        for value, g in groups if len(groups) > 1 else []:
            calibration = g.get("calibration", {})
            rows.append(
                [
                    f"{title}: {value}",
                    count(g["stays"]),
                    count(g["septic"]),
                    ranged(g.get("utility")),
                    ranged(g.get("auroc")),
                    ranged(g.get("auprc")),
                    decimal(calibration.get("slope"), 2),
                    decimal(calibration.get("intercept"), 2),
                ]
            )
    header = ["group", "stays>", "septic>", "utility>", "AUROC>", "AUPRC>", "cal. slope>", "cal. intercept>"]
    if not rows:
        return []
    return [
        f"{level} By hospital and sub-group",
        "",
        "No figures where there are fewer than 20 septic stays.",
        *table(header, rows),
    ]
