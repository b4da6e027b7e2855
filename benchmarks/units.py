"""Units of one stay's values, fitted and measured: ``python -m benchmarks.units [--fit] P19 [EICU]``.

P19 and EICU are Parquet files of hourly rows. With ``--fit`` the joint distribution of laboratory values, and
the thresholds of :mod:`ibt_deploy.preprocess.stay_checks`, are fitted on the training part of the split
``training/splits/sepsis.csv`` and written to ``ibt_deploy/data/lab_relations.json``. Then false alarms are
counted on the validation and test parts and on EICU, which are not fitted on, and values of validation stays
are converted to other units: all of them, those before or after some hour, or one here and there.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from ibt_deploy.errors import InputError
from ibt_deploy.mapping.units import Conversion, conversion
from ibt_deploy.preprocess import stay_checks
from ibt_deploy.preprocess.stay_checks import LabRelations, OtherUnit, checked_stay, unit_likelihoods
from ibt_deploy.records import Stay
from ibt_deploy.vocabulary import INDEX, OTHER_UNITS, VARIABLES

ROOT = Path(__file__).resolve().parents[1]
RELATIONS = ROOT / "ibt_deploy" / "data" / "lab_relations.json"
CASES = 300
FITTED_FAULTS = 3_000
MOST_ALARMS = 0.0012
"""Largest share of the training stays in which a variable may be doubted."""

MOST_FOR_PART = {"BUN": 0.75, "Phosphate": 0.25}
"""Share of it spent on alarms about a part of the values; half by default."""

LEAST_NOTICED = 0.99
"""Share of wrong units noticed beyond which sensitivity need not rise."""

ROUNDS = 12
LABS = (
    "BUN", "Creatinine", "Bilirubin_direct", "Bilirubin_total", "Glucose", "Lactate", "Magnesium",
    "Phosphate", "Hct", "Hgb", "HCO3", "Potassium", "pH", "PaCO2", "AST", "Alkalinephos", "TroponinI",
    "Platelets", "Age",
)  # fmt: skip
UREA = "mg/dL of urea"
JUDGED = (
    ("BUN", "mmol/L"), ("Creatinine", "umol/L"), ("Bilirubin_direct", "umol/L"),
    ("Bilirubin_total", "umol/L"), ("Glucose", "mmol/L"), ("Lactate", "mg/dL"), ("Magnesium", "mmol/L"),
    ("Phosphate", "mmol/L"), ("Hgb", "mmol/L"), ("PaCO2", "kPa"), ("AST", "ukat/L"),
    ("Alkalinephos", "ukat/L"), ("TroponinI", "ng/L"),
)  # fmt: skip
COMPANIONS = {"BUN": "Creatinine", "Hgb": "Hct"}
Rows = np.ndarray


def other(variable: str, unit: str) -> Conversion:
    """Conversion from ``unit`` to the model's."""
    if unit == UREA:
        return conversion(variable, "mg/dL", "urea")
    return conversion(variable, unit)


def stays(path: Path) -> list[tuple[str, Rows]]:
    """Name and rows, shape ``(hours, 40)``, of every stay of a Parquet file."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    patients = np.array(table["patient_id"].to_pylist()).astype(str)
    columns = [table["hour" if v.name == "ICULOS" else v.name].to_numpy() for v in VARIABLES]
    values = np.stack(columns, axis=1).astype(np.float64)
    starts = np.flatnonzero(np.append(True, patients[1:] != patients[:-1]))
    return [(patients[a], values[a:b]) for a, b in zip(starts, [*starts[1:], len(values)], strict=True)]


def means(found: list[Rows]) -> Rows:
    """Mean logarithm of each laboratory value in each stay, NaN if never measured."""
    out = np.full((len(found), len(LABS)), np.nan)
    for row, values in zip(out, found, strict=True):
        given = values[:, [INDEX[name] for name in LABS]]
        positive = given > 0
        count = positive.sum(axis=0)
        total = np.log(np.where(positive, given, 1.0)).sum(axis=0)
        row[count > 0] = total[count > 0] / count[count > 0]
    return out


def normal(given: Rows) -> tuple[Rows, Rows]:
    """Mean and covariance of a normal distribution, by EM over missing values."""
    mean, covariance = np.nanmean(given, axis=0), np.diag(np.nanvar(given, axis=0))
    patterns, which = np.unique(~np.isnan(given), axis=0, return_inverse=True)
    groups = [np.flatnonzero(which.ravel() == k) for k in range(len(patterns))]
    for _ in range(ROUNDS):
        first, second = np.zeros_like(mean), np.zeros_like(covariance)
        for pattern, rows in zip(patterns, groups, strict=True):
            seen, unseen = np.flatnonzero(pattern), np.flatnonzero(~pattern)
            filled = np.zeros((len(rows), len(mean)))
            filled[:, seen] = given[np.ix_(rows, seen)] - mean[seen]
            slope = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, unseen)])
            filled[:, unseen] = filled[:, seen] @ slope
            left = covariance[np.ix_(unseen, unseen)] - covariance[np.ix_(unseen, seen)] @ slope
            second[np.ix_(unseen, unseen)] += len(rows) * left
            first += filled.sum(axis=0)
            second += filled.T @ filled
        moved = first / len(given)
        mean, covariance = mean + moved, second / len(given) - np.outer(moved, moved)
    return mean, covariance


def steps(found: list[Rows], variable: str, companion: tuple[str, float] | None) -> Rows:
    """Changes of the logarithm from each value to the next, minus the part explained by the companion."""
    out = []
    for values in found:
        logs = np.log(np.where(values > 0, values, np.nan))
        course = logs[:, INDEX[variable]]
        if companion is not None:
            beside = logs[:, INDEX[companion[0]]]
            known, hours = np.flatnonzero(~np.isnan(beside)), np.arange(len(beside))
            if len(known):
                course = course - companion[1] * stay_checks._carried(beside[known], known, hours)
        out.append(np.diff(course[~np.isnan(course)]))
    return np.concatenate(out)


def fit(found: list[Rows], rng: np.random.Generator) -> None:
    """Fit relations and thresholds on training stays, and write them."""
    mean, covariance = normal(means(found))
    slopes = {"BUN": 0.8, "Hgb": 1.0}
    units = []
    for variable, unit in JUDGED:
        companion = (COMPANIONS[variable], slopes[variable]) if variable in COMPANIONS else None
        scale = np.median(np.abs(steps(found, variable, companion))) / 0.8165  # quartile of t, 2 degrees
        shift = -np.log(other(variable, unit).factor)
        units.append(
            OtherUnit(
                variable,
                unit,
                float(round(shift, 5)),
                max(round(float(scale), 4), 0.02),
                companion,
                np.inf,
                np.inf,
            )
        )
    relations = LabRelations(LABS, np.round(mean, 5), np.round(covariance, 6), tuple(units))
    known = np.array([likelihoods(values, relations) for values in found])
    thresholds = []
    for place, unit in enumerate(units):
        alone = replace(relations, units=(unit,))
        measured = [v for v in found[:FITTED_FAULTS] if np.nanmax(v[:, INDEX[unit.variable]], initial=0) > 0]
        share = MOST_ALARMS * MOST_FOR_PART.get(unit.variable, 0.5)
        limits = {}
        for kind, how in ((1, "one side"), (0, "all")):
            alarms = np.quantile(known[:, place, kind], 1 - share, method="higher")
            faulty = np.array([likelihoods(changed(v, unit, how, rng), alone)[0, kind] for v in measured])
            noticed = np.quantile(faulty[np.isfinite(faulty)], 1 - LEAST_NOTICED)
            limits[kind] = round(max(float(alarms), 0.0, float(noticed)), 2)
            share = MOST_ALARMS - float((known[:, place, kind] > limits[kind]).mean())
        thresholds.append(unit._replace(whole=limits[0], part=limits[1]))
    written = {
        "source": "benchmarks/units.py --fit, training part of training/splits/sepsis.csv",
        "variables": LABS,
        "mean": relations.mean.tolist(),
        "covariance": relations.covariance.tolist(),
        "units": [unit._asdict() for unit in thresholds],
    }
    text = json.dumps(written, separators=(",", ":")).replace("],[", "],\n[").replace("},{", "},\n{")
    RELATIONS.write_text(text + "\n", encoding="utf-8")
    stay_checks.lab_relations.cache_clear()


def likelihoods(values: Rows, relations: LabRelations) -> Rows:
    """Both likelihoods of every unit, shape ``(units, 2)``; minus infinity if there is none."""
    found = {(u.other.variable, u.other.unit): (u.whole, u.part) for u in unit_likelihoods(values, relations)}
    none = (-np.inf, -np.inf)
    return np.array([found.get((unit.variable, unit.unit), none) for unit in relations.units])


def changed(values: Rows, unit: OtherUnit | tuple[str, str], how: str, rng: np.random.Generator) -> Rows:
    """``values`` with one variable in another unit: all its values, those on one side of an hour, or half."""
    out = values.copy()
    column = out[:, INDEX[unit[0]]]
    places = np.flatnonzero(~np.isnan(column))
    if how == "one side" and len(places) > 1:
        cut = rng.integers(1, len(places))
        places = places[:cut] if rng.random() < 0.5 else places[cut:]
    elif how == "half" and len(places) > 1:
        places = rng.choice(places, len(places) // 2, replace=False)
    column[places] = [other(unit[0], unit[1]).given(value) for value in column[places].tolist()]
    return out


def outcome(values: Rows) -> Iterator[str]:
    """The warnings of a stay that say which values are doubted, or the code of its refusal."""
    try:
        for notice in checked_stay(Stay(values, "p", "p.psv", "PSV"))[1]:
            if notice.code in ("doubtful_unit", "columns_swapped", "pressures_contradict"):
                yield f"{notice.code} {notice.message.split()[0]}"
            elif notice.code == "values_out_of_range":
                yield notice.message
    except InputError as error:
        yield f"({error.code}) {error.message}"


def report(parts: dict[str, list[Rows]], rng: np.random.Generator) -> None:
    """Print false alarms and sensitivity."""
    for name, found in parts.items():
        counts: Counter[str] = Counter()
        doubted = 0
        for values in found:
            codes = {code for code in outcome(values) if code.startswith(("doubtful_unit", "("))}
            codes = {code.split(")")[0] + ")" if code.startswith("(") else code for code in codes}
            counts.update(codes)
            doubted += bool(codes)
        share = f"{doubted / len(found):.2%}"
        click.echo(f"{name}: {len(found)} stays, {doubted} with a doubt ({share}); {counts.most_common()}")
    click.echo("\n| variable | in | all | one side of an hour | half |\n| --- | --- | --- | --- | --- |")
    pairs = [*((v, u) for v, units in OTHER_UNITS.items() for u in units), ("BUN", UREA)]
    for variable, unit in pairs:
        if (variable, unit) == ("FiO2", "%"):  # rescaled, with a notice
            continue
        measured = [v for v in parts["validation"] if np.count_nonzero(~np.isnan(v[:, INDEX[variable]]))]
        shares = []
        for how in ("all", "one side", "half"):
            several = [
                v for v in measured if how == "all" or np.count_nonzero(~np.isnan(v[:, INDEX[variable]])) > 1
            ]
            noticed = 0
            for values in several[:CASES]:
                known = set(outcome(values))
                noticed += any(
                    variable in code and code not in known
                    for code in outcome(changed(values, (variable, unit), how, rng))
                )
            shares.append(f"{noticed / min(CASES, len(several)):.0%}" if several else "-")
        click.echo(f"| {variable} | {unit} | {' | '.join(shares)} |")


@click.command()
@click.argument("p19", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("eicu", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--fit", "fitting", is_flag=True, help="Fit the relations first; report afterwards.")
def main(p19: Path, eicu: Path | None, fitting: bool) -> None:
    """Measure what is noticed of other units in the stays of P19, and of EICU, in Parquet."""
    rng = np.random.default_rng(0)
    with (ROOT / "training" / "splits" / "sepsis.csv").open(encoding="utf-8") as file:
        part_of = {row["id"]: row["part"] for row in csv.DictReader(file)}
    parts: dict[str, list[Rows]] = {"train": [], "validation": [], "test": []}
    for name, values in stays(p19):
        parts[part_of[name]].append(values)
    if fitting:
        fit(parts["train"], rng)
    if eicu is not None:
        parts["eICU"] = [values for _, values in stays(eicu)]
    report({name: found for name, found in parts.items() if name != "train"}, rng)


if __name__ == "__main__":
    main()
