"""What the paper claims, and whether it held here: expectations written down before training (science 8.3).

A claim held where the paired patient-bootstrap interval of the difference excludes 0 on the claimed side; it
did not hold where the interval excludes 0 on the other side; otherwise these data do not resolve it. Where a
number has no interval, the claim is told as seen or not seen, and counts as neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from training.study.decisions import OFFICIAL, TUNED
from training.study.measures import FREE
from training.study.plan import Task

HELD, FAILED, UNRESOLVED, NOT_RUN = "held", "did not hold", "not resolved", "not run"
SEEN, NOT_SEEN = "seen", "not seen"
VERDICTS = (HELD, FAILED, UNRESOLVED, SEEN, NOT_SEEN, NOT_RUN)
NAMES = {"transformer": "Transformer", "teacher": "Teacher", "deit": "DeiT", "bbm": "BBM"}
TITLES = {
    "utility": "utility 2019",
    "challenge_metric": "challenge metric 2021",
    "f_measure": "F-1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}
EXPECTED = {
    "teacher - transformer": "yes",
    "bbm - transformer": "yes",
    "bbm - deit": "likely",
    "deit - transformer": "likely, small",
    "bbm - teacher": "uncertain",
}
"""Science 8.3, before any training."""
CONTROLS = {
    "transformer-long": ("Transformer trained for the time of BBM", "not stated"),
    "bbm-untrained": ("BBM from an untrained teacher", "not stated"),
    "bbm-shuffled": ("BBM whose teacher sees another record", "yes"),
}
"""What BBM must be better than for its gain to be the teacher's, with the expectation of science 8.4."""


def claims(task: Task, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every claim with what was measured and the verdict, in the order of the paper, controls beside them."""
    return [
        *_scores(task, results["table2"]),
        *_controls(task, results["controls"]),
        *_agreement(results["table1"]),
        *_groups(task, results["table3"]),
        *_features(results["similarity"]["cka"]),
        *_attention(results["similarity"]["attention"]),
        *_scarcity(results["curves"]),
    ]


def _claim(
    text: str, found: Mapping[str, Any] | None, sign: int = 1, expected: str = "yes"
) -> dict[str, Any]:
    return {"claim": text, "expected": expected, "difference": found, "verdict": verdict(found, sign)}


def verdict(found: Mapping[str, Any] | None, sign: int = 1) -> str:
    """What a paired difference says of the claim that it has a sign."""
    if found is None or found["value"] is None or found["interval"] is None:
        return NOT_RUN
    low, high = sorted(sign * bound for bound in found["interval"])
    return HELD if low > 0 else FAILED if high < 0 else UNRESOLVED


def _scores(task: Task, table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for pair, expected in EXPECTED.items():
        first, second = (NAMES[name] for name in pair.split(" - "))
        measured = [(TUNED, OFFICIAL[task])]
        if pair == "teacher - transformer":
            measured.append((FREE, "auprc"))
        if pair.startswith("bbm"):
            measured.append((TUNED, "f_measure"))
        for row, measure in measured:
            found = table["differences"].get(pair, {}).get(row, {}).get(measure)
            yield _claim(f"{first} > {second} in {TITLES[measure]}", found, expected=expected)


def _controls(task: Task, table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for arm, (name, expected) in CONTROLS.items():
        found = table["differences"].get(f"{arm} - bbm", {}).get(TUNED, {}).get(OFFICIAL[task])
        yield _claim(f"BBM > {name} in {TITLES[OFFICIAL[task]]}", _turned(found), expected=expected)


def _turned(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The difference the other way round."""
    if found is None or found["value"] is None:
        return None
    interval = found["interval"]
    return {"value": -found["value"], "interval": interval and [-interval[1], -interval[0]]}


def _agreement(tables: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for place, table in tables.items():
        for first, second in (("bbm", "deit"), ("deit", "transformer")):
            found = table["differences"].get(f"{first} - {second}", {}).get("r_squared")
            text = f"{NAMES[first]} > {NAMES[second]} in R² with the teacher, {place}"
            yield _claim(text, found)


def _groups(task: Task, table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    found = table["differences"].get("bbm - bbm-groups-1", {}).get(TUNED, {}).get(OFFICIAL[task])
    n = table["groups_of_bbm"]
    yield _claim(f"BBM in {n} groups > in 1 group in {TITLES[OFFICIAL[task]]}", found, expected="not stated")


def _features(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    means = {name: entry["diagonal_mean"] for name, entry in table.get("arms", {}).items()}
    for first, second in (("bbm", "deit"), ("deit", "transformer")):
        a, b = means.get(first), means.get(second)
        yield {
            "claim": f"{NAMES[first]} > {NAMES[second]} in CKA with the teacher's groups",
            "expected": "yes",
            "difference": None if a is None or b is None else {"value": round(a - b, 6), "interval": None},
            "verdict": NOT_RUN if a is None or b is None else SEEN if a > b else NOT_SEEN,
        }


def _attention(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    gap = table.get("differences", {}).get("bbm - transformer", {})
    text = "BBM < Transformer in attention distance of the early blocks"
    yield _claim(text, gap.get("distance", {}).get("early"), sign=-1, expected="likely in ECG")
    shares = {name: entry["toeplitz_share"] for name, entry in table.get("arms", {}).items()}
    a, b = (_early(shares.get(name)) for name in ("bbm", "transformer"))
    yield {
        "claim": "BBM > Transformer in Toeplitz share of attention of the early blocks",
        "expected": "likely in ECG",
        "difference": None if a is None or b is None else {"value": round(a - b, 6), "interval": None},
        "verdict": NOT_RUN if a is None or b is None else SEEN if a > b else NOT_SEEN,
    }


def _early(values: list[float | None] | None) -> float | None:
    early = [v for v in (values or [])[: (len(values or []) + 1) // 2] if v is not None]
    return sum(early) / len(early) if early else None


def _scarcity(curves: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, found in curves.get("gaps", {}).items():
        first, second = (NAMES[method] for method in name.split(" - "))
        share = curves["smallest"]
        text = f"{first} - {second} is larger at {100 * share:g} % of the patients than at 100 %"
        yield _claim(
            text, found, expected="yes" if name == "teacher - transformer" else "the paper's argument"
        )
