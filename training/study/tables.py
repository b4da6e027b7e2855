"""The study's tables as plain data: means over seeds, intervals over patients, paired differences.

The interval of a mean over seeds is that of the mean itself: every draw of patients is scored with every
seed's network and the scores are averaged. It says how far the patients tested decide the number. How far the
seed does, the range over seeds says, which is beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ibt_deploy.metrics.bootstrap import interval_of
from training.study.cohort import Floats
from training.study.decisions import FIXED, TUNED
from training.study.measures import AGREEMENT, FREE, Measured

DECIMALS = 6
METHODS = ("transformer", "teacher", "deit", "bbm")
STUDENTS = ("transformer", "deit", "bbm")
DEITS = ("deit-soft", "deit-hard")
ROWS = (FIXED, TUNED, FREE)
Arms = Mapping[str, Mapping[int, Measured]]
"""Judged runs by arm and seed."""


def by_arm(runs: Iterable[Measured]) -> dict[str, dict[int, Measured]]:
    """Judged runs by arm and seed."""
    arms: dict[str, dict[int, Measured]] = {}
    for one in runs:
        arms.setdefault(one.run.arm, {})[one.run.recipe.seed] = one
    return arms


def number(value: float) -> float | None:
    """As JSON holds it: rounded, and None where undefined."""
    return round(float(value), DECIMALS) + 0.0 if np.isfinite(value) else None


def figure(values: Mapping[int, Floats]) -> dict[str, Any]:
    """Mean over seeds with its interval over patients, range over seeds, and each seed's value.

    ``values`` are those of :func:`ibt_deploy.metrics.bootstrap.drawn_values` by seed.
    """
    found = interval_of(np.mean(list(values.values()), axis=0))
    per_seed = {str(seed): number(drawn[0]) for seed, drawn in sorted(values.items())}
    points = [float(drawn[0]) for drawn in values.values()]
    return {
        "value": number(found.value),
        "interval": _bounds(found.low, found.high),
        "range": _bounds(min(points), max(points)),
        "per_seed": per_seed,
    }


def difference(first: Mapping[int, Floats], second: Mapping[int, Floats]) -> dict[str, Any] | None:
    """``first - second`` over the seeds that both have, on the same draws; None without such a seed."""
    common = sorted(set(first) & set(second))
    if not common:
        return None
    values = {seed: first[seed] - second[seed] for seed in common}
    low_high = interval_of(np.mean(list(values.values()), axis=0))
    return figure(values) | {"resolved": low_high.excludes_zero}


def drawn(arms: Arms, arm: str, place: str, row: str, measure: str) -> dict[int, Floats]:
    """Values of a measure by seed, of those runs that have it."""
    key = (place, row, measure)
    return {seed: one.drawn[key] for seed, one in arms.get(arm, {}).items() if key in one.drawn}


def best_deit(arms: Arms, prefix: str = "") -> str | None:
    """The DeiT arm of the higher official score on validation, mean over seeds; None where neither ran."""
    ran = [arm for arm in DEITS if arms.get(prefix + arm)]
    if not ran:
        return None
    return max(ran, key=lambda arm: np.mean([one.validation for one in arms[prefix + arm].values()]))


def renamed(arms: Arms, prefix: str, seeds: Sequence[int]) -> dict[str, dict[int, Measured]]:
    """The arms below a prefix as methods: ``deit`` for the better DeiT; only the seeds that are studied."""
    deit = best_deit(arms, prefix)
    wanted = {"deit": deit} if deit else {}
    found: dict[str, dict[int, Measured]] = {}
    for method in (*METHODS, *DEITS):
        runs = arms.get(prefix + wanted.get(method, method), {})
        found[method] = {seed: one for seed, one in runs.items() if seed in seeds}
    return {method: runs for method, runs in found.items() if runs}


def score_table(methods: Arms, names: Sequence[str], place: str) -> dict[str, Any]:
    """Every measure in every row of thresholds, by method."""
    return {
        name: {
            row: {
                measure: figure(drawn(methods, name, place, row, measure))
                for measure in measures_of(methods, place, row)
                if drawn(methods, name, place, row, measure)
            }
            for row in ROWS
        }
        for name in names
        if name in methods
    }


def measures_of(methods: Arms, place: str, row: str) -> list[str]:
    """Names of the measures in a row, in their order."""
    names: dict[str, None] = {}
    for runs in methods.values():
        for one in runs.values():
            names |= {m: None for p, r, m in one.drawn if (p, r) == (place, row)}
    return list(names)


def differences(methods: Arms, pairs: Iterable[tuple[str, str]], place: str) -> dict[str, Any]:
    """First minus second of each pair, every measure in every row."""
    table: dict[str, Any] = {}
    for first, second in pairs:
        if first not in methods or second not in methods:
            continue
        table[f"{first} - {second}"] = {
            row: {
                measure: difference(
                    drawn(methods, first, place, row, measure), drawn(methods, second, place, row, measure)
                )
                for measure in measures_of({m: methods[m] for m in (first, second)}, place, row)
            }
            for row in ROWS
        }
    return table


def method_pairs() -> list[tuple[str, str]]:
    """Every pair of methods, the one that the paper puts higher first."""
    return list(combinations(reversed(("transformer", "deit", "teacher", "bbm")), 2))


def method_table(arms: Arms, prefix: str, place: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Table 2 for the runs below a prefix on one set."""
    methods = renamed(arms, prefix, seeds)
    runs = next(iter(methods.values()), {})
    classes = next((one.classes[place] for one in runs.values()), (1, 1))
    return {
        "set": place,
        "seeds": {name: sorted(found) for name, found in methods.items()},
        "classes": {"ranking": classes[0], "f_measure": classes[1]},
        "deit": best_deit(arms, prefix),
        "validation": {
            name: number(float(np.mean([one.validation for one in found.values()])))
            for name, found in methods.items()
        },
        "methods": score_table(methods, (*METHODS, *DEITS), place),
        "differences": differences(methods, method_pairs(), place),
    }


def agreement_table(arms: Arms, prefix: str, place: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Table 1 for the runs below a prefix on one set: agreement with the teacher, and the ceiling."""
    methods = renamed(arms, prefix, seeds)
    readings = measures_of(methods, place, AGREEMENT)
    rows = {
        ("ceiling" if name == "teacher" else name): {
            reading: figure(values)
            for reading in readings
            if (values := drawn(methods, name, place, AGREEMENT, reading))
        }
        for name in ("transformer", *DEITS, "deit", "bbm", "teacher")
        if name in methods
    }
    pairs = [("bbm", "deit"), ("deit", "transformer"), ("bbm", "transformer")]
    return {
        "set": place,
        "deit": best_deit(arms, prefix),
        "methods": {name: row for name, row in rows.items() if row},
        "differences": {
            f"{a} - {b}": {
                reading: difference(
                    drawn(methods, a, place, AGREEMENT, reading), drawn(methods, b, place, AGREEMENT, reading)
                )
                for reading in readings
            }
            for a, b in pairs
            if a in methods and b in methods
        },
    }


def arm_table(
    arms: Arms, names: Sequence[str], against: Sequence[str], place: str, seeds: Sequence[int]
) -> dict[str, Any]:
    """Scores of some arms, their agreement with the teacher, and their differences to others."""
    studied = {
        name: {seed: one for seed, one in arms[name].items() if seed in seeds}
        for name in (*names, *against)
        if name in arms
    }
    pairs = [(a, b) for b in against for a in names if a != b]
    return {
        "set": place,
        "seeds": {name: sorted(found) for name, found in studied.items()},
        "arms": score_table(studied, names, place),
        "agreement": {
            name: figure(values)
            for name in names
            if (values := drawn(studied, name, place, AGREEMENT, "r_squared"))
        },
        "differences": differences(studied, pairs, place),
    }


def _bounds(low: float, high: float) -> list[float | None] | None:
    return [number(low), number(high)] if np.isfinite(low) and np.isfinite(high) else None
