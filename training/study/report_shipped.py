"""The section about the shipped model: calibration, and alarms or findings at every operating point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ibt_deploy.render.markdown import count, decimal, table
from training.study.markdown import at, cell, image

EVERYBODY = "all"


def shipped_section(results: Mapping[str, Any], drawn: Mapping[str, str]) -> list[str]:
    """Calibration and operating points by group; ``drawn`` are the paths of pictures."""
    found = results["shipped"]
    lines = ["", "### The shipped model: calibration and operating points"]
    if "not_run" in found:
        return [*lines, "", f"not run: {found['not_run']}"]
    draws = count(results["bootstrap"]["draws"])
    own = "the test part of the data it was trained on" if found["own_data"] else "data it was not trained on"
    lines += [
        "",
        f"`{found['model']}` {found['version']} (`{found['sha256'][:12]}`), asked through the product on "
        f"{own}; {found['refused']} refused. 95 % intervals over patients, {draws} draws; groups with fewer "
        f"than 20 {'septic stays' if results['task'] == 'sepsis' else 'positive labels'} get no figures. "
        f"`{results['command']} --no-train`",
    ]
    if "calibration" not in found[EVERYBODY]:
        return [*lines, "", "Too few positives for figures."]
    lines += image("Reliability: ten bins of equal count", drawn["reliability"])
    lines += ["**Calibration**", *_calibration(found)]
    alarms = results["task"] == "sepsis"
    for name in found[EVERYBODY]["operating_points"]:
        lines += [f"**Operating point `{name}`**", *(_alarms if alarms else _findings)(found, name)]
    if alarms:
        lines += [
            *image("Sensitivity against alarm burden", drawn["alarms"]),
            "An alarm is right from 12 h before to 3 h after onset; after an alarm there are 6 h of silence. "
            "Lead time is from the first right alarm to onset, median and quartiles, in hours; sensitivity "
            "is the share of septic stays with a right alarm.",
        ]
    else:
        lines += [
            "Sensitivity and PPV are over all findings of evaluable classes together, so that common classes "
            "decide them.",
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


def _calibration(found: Mapping[str, Any]) -> list[str]:
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
