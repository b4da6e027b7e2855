"""The study's tables, cells and captions: means over seeds, intervals over patients, differences, claims.

The interval of a mean over seeds is that of the mean itself: every draw of patients is scored with every
seed's network and the scores are averaged. It shows how much the number depends on the patients tested; the
range over seeds, beside it, shows how much it depends on the seed.

Claims are the paper's, with expectations written down before training. A claim held where the
paired patient-bootstrap interval of the difference excludes 0 on the claimed side and the difference of every
seed lies there; it did not hold where both lie on the other side; otherwise these data do not resolve it. A
claim whose number has no interval counts as seen or not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ibt_deploy.metrics import bootstrap
from ibt_deploy.metrics.bootstrap import interval_of
from ibt_deploy.render.report import UNDEFINED, bounds, count, decimal, ranged
from ibt_deploy.types import Floats, Task
from training.study.measures import AGREEMENT, Measured
from training.study.similarity import (
    CEILING,
    NUMBERS,
    STUDENT_ARMS,
    Alignments,
    Similarities,
    local_bar,
)
from training.study.study import LEFT_OUT, TEST, Arrays
from training.tasks import TASKS
from training.tasks.base import FIXED, FREE, TUNED, Cohort

DECIMALS = 6
LOCAL_BAR = "local_bar"
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
    """The value for JSON: rounded, and None if undefined."""
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
    """Values of a measure by seed, for the runs that have it."""
    key = (place, row, measure)
    return {seed: one.drawn[key] for seed, one in arms.get(arm, {}).items() if key in one.drawn}


def best_deit(arms: Arms, prefix: str = "") -> str | None:
    """The DeiT arm with the higher official validation score, mean over seeds; None if neither ran."""
    ran = [arm for arm in DEITS if arms.get(prefix + arm)]
    if not ran:
        return None
    return max(ran, key=lambda arm: np.mean([one.validation for one in arms[prefix + arm].values()]))


def renamed(arms: Arms, prefix: str, seeds: Sequence[int]) -> dict[str, dict[int, Measured]]:
    """The arms below a prefix by method, with ``deit`` for the better DeiT; only the given seeds."""
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
    """Names of the measures in a row, in order."""
    names: dict[str, None] = {}
    for runs in methods.values():
        for one in runs.values():
            names |= {m: None for p, r, m in one.drawn if (p, r) == (place, row)}
    return list(names)


def differences(methods: Arms, pairs: Iterable[tuple[str, str]], place: str) -> dict[str, Any]:
    """First minus second of each pair, for every measure in every row."""
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
    """Every pair of methods, the one that the paper ranks higher first."""
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
    """Scores of some arms, their agreement with the teacher, and their differences from other arms."""
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


def cka_table(found: Mapping[int, Alignments], deit: str | None) -> dict[str, Any]:
    """Matrices, mean over seeds, and the mean of the group-level diagonal.

    Parameters
    ----------
    found
        Alignments by seed.
    deit
        The DeiT arm that is reported as DeiT.
    """
    if not found:
        return {}
    one = next(iter(found.values()))
    arms = [arm for arm in (*STUDENT_ARMS, CEILING) if any(arm in a.units for a in found.values())]
    entries = {}
    for arm in arms:
        units = [a.units[arm] for a in found.values() if arm in a.units]
        groups = [a.groups[arm] for a in found.values() if arm in a.groups]
        diagonals = {seed: np.diag(a.groups[arm]) for seed, a in found.items() if arm in a.groups}
        entries[arm] = {
            "seeds": sorted(diagonals),
            "units": _grid(np.mean(units, axis=0)),
            "groups": _grid(np.mean(groups, axis=0)),
            "diagonal": [number(v) for v in np.mean(list(diagonals.values()), axis=0)],
            "diagonal_mean": number(float(np.mean(list(diagonals.values())))),
            "diagonal_mean_per_seed": {str(s): number(float(np.mean(d))) for s, d in diagonals.items()},
        }
    if deit in entries:
        entries["deit"] = entries[deit]
    return {"batches": one.n_batches, "examples_per_batch": one.batch_size, "arms": entries}


def attention_table(
    similarities: Similarities, place: str, seeds: Sequence[int], deit: str | None, draws: int
) -> dict[str, Any]:
    """Numbers of every block, with intervals over patients, and differences between students, on a set."""
    study = similarities.study
    cohort = study.external.get(place, study.cohort)
    drawn: dict[str, dict[str, dict[int, list[Floats]]]] = {}
    bars: dict[int, Floats] = {}
    toeplitz: dict[str, dict[int, Floats]] = {}
    described: dict[str, Any] = {}
    for arm in STUDENT_ARMS:
        for seed in seeds:
            found = similarities.attention(arm, seed, place)
            if found is None:
                continue
            described = _described(found, cohort)
            toeplitz.setdefault(arm, {})[seed] = found["toeplitz_share"]
            *numbers, (_, bars[seed]) = _drawn(found, cohort, draws).items()
            for name, blocks in numbers:
                drawn.setdefault(arm, {}).setdefault(name, {})[seed] = blocks
    if deit in drawn:
        drawn["deit"], toeplitz["deit"] = drawn[deit], toeplitz[deit]
    table = {
        arm: {name: _by_block(by_seed, figure) for name, by_seed in names.items()}
        | {
            "toeplitz_share": [number(v) for v in np.mean(list(toeplitz[arm].values()), axis=0)],
            "toeplitz_share_early": {str(s): number(_early(v)) for s, v in toeplitz[arm].items()},
        }
        for arm, names in drawn.items()
    }
    pairs = [(a, b) for a, b in (("bbm", "transformer"), ("bbm", "deit")) if a in drawn and b in drawn]
    gaps = {f"{a} - {b}": {name: _gaps(drawn[a][name], drawn[b][name]) for name in NUMBERS} for a, b in pairs}
    locality = {arm: difference(_early_blocks(names["local_mass"]), bars) for arm, names in drawn.items()}
    return described | {"arms": table, "differences": gaps, "locality": locality} if table else {}


def _described(found: Arrays, cohort: Cohort) -> dict[str, Any]:
    return {
        "records": len(found["items"]),
        "patients": cohort.truth(found["items"]).n_patients,
        "window": int(found["window"]),
        "token": "1 h" if found["causal"] else f"{float(found['token_seconds']):g} s",
        "causal": bool(found["causal"]),
        "reached": [int(n) for n in found["reached"]],
        "uniform": {name: number(float(found[f"uniform_{name}"].mean())) for name in NUMBERS},
    }


def _drawn(found: Arrays, cohort: Cohort, draws: int) -> dict[str, Any]:
    """Mean over records on every draw of patients, by measure and block; :data:`LOCAL_BAR` last."""
    truth = cohort.truth(found["items"])
    patients, once = truth.patients[truth.offsets[:-1]], np.ones(len(found["items"]))
    blocks = range(found["distance"].shape[1])
    statistics = {
        f"{name}|{block}": bootstrap.ratio(found[name][:, block], once, patients)
        for name in NUMBERS
        for block in blocks
    }
    tokens = np.full(len(patients), found["averaged"].shape[-1])
    if found["causal"]:
        tokens = np.diff(truth.offsets)
    bar = local_bar(tokens, int(found["window"]), bool(found["causal"]))
    statistics[LOCAL_BAR] = bootstrap.ratio(bar, once, patients)
    values = bootstrap.drawn_values(statistics, truth.n_patients, draws=draws)
    numbers = {name: [values[f"{name}|{block}"] for block in blocks] for name in NUMBERS}
    return numbers | {LOCAL_BAR: values[LOCAL_BAR]}


def _by_block(by_seed: Mapping[int, list[Floats]], made: Any) -> list[Any]:
    n_blocks = len(next(iter(by_seed.values())))
    return [made(_block(by_seed, block)) for block in range(n_blocks)]


def _gaps(first: Mapping[int, list[Floats]], second: Mapping[int, list[Floats]]) -> dict[str, Any]:
    """Difference in every block, and in the mean of the first half of the blocks."""
    n_blocks = len(next(iter(first.values())))
    each = [difference(_block(first, block), _block(second, block)) for block in range(n_blocks)]
    return {"blocks": each, "early": difference(_early_blocks(first), _early_blocks(second))}


def _early_blocks(by_seed: Mapping[int, list[Floats]]) -> dict[int, Floats]:
    """Mean of the first half of the blocks."""
    return {seed: _early(blocks) for seed, blocks in by_seed.items()}


def _early(blocks: Any) -> Any:
    return np.mean(blocks[: (len(blocks) + 1) // 2], axis=0)


def _block(by_seed: Mapping[int, list[Floats]], block: int) -> dict[int, Floats]:
    return {seed: blocks[block] for seed, blocks in by_seed.items()}


def _grid(matrix: Floats) -> list[list[float | None]]:
    return [[number(value) for value in row] for row in matrix]


def _bounds(low: float, high: float) -> list[float | None] | None:
    return [number(low), number(high)] if np.isfinite(low) and np.isfinite(high) else None


HELD, FAILED, UNRESOLVED = "held", "did not hold", "not resolved"
SEEN, NOT_SEEN = "seen", "not seen"
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
"""Expected differences, written down before any training."""
CONTROLS = {
    "transformer-long": ("Transformer trained for the time of BBM", "not stated"),
    "bbm-untrained": ("BBM from an untrained teacher", "not stated"),
    "bbm-shuffled": ("BBM whose teacher sees another record", "yes"),
}
"""Controls that BBM must beat for its gain to come from the teacher, and what was expected."""


def claims(task: Task, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every claim with its measurement and verdict, in the order of the paper, and the controls."""
    return [
        *_scores(task, results["table2"]),
        *_controls(task, results["controls"]),
        *_agreement(results["table1"]),
        *_groups(task, results["table3"]),
        *_features(results["similarity"][TEST]["cka"]),
        *_attention(results["similarity"][TEST]["attention"]),
        *_scarcity(results["curves"]),
    ]


def _claim(
    text: str, found: Mapping[str, Any] | None, sign: int = 1, expected: str = "yes"
) -> dict[str, Any]:
    return {"claim": text, "expected": expected, "difference": found, "verdict": verdict(found, sign)}


def verdict(found: Mapping[str, Any] | None, sign: int = 1) -> str:
    """Verdict of a paired difference on the claim that it has the given sign."""
    if found is None or found["value"] is None or found["interval"] is None:
        return NOT_RUN
    ends = [sign * end for end in (*found["interval"], *found["range"])]
    return HELD if min(ends) > 0 else FAILED if max(ends) < 0 else UNRESOLVED


def _scores(task: Task, table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for pair, expected in EXPECTED.items():
        first, second = (NAMES[name] for name in pair.split(" - "))
        measured = [(TUNED, TASKS[task].official)]
        if pair == "teacher - transformer":
            measured.append((FREE, "auprc"))
        if pair.startswith("bbm"):
            measured.append((TUNED, "f_measure"))
        for row, measure in measured:
            found = table["differences"].get(pair, {}).get(row, {}).get(measure)
            yield _claim(f"{first} > {second} in {TITLES[measure]}", found, expected=expected)


def _controls(task: Task, table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for arm, (name, expected) in CONTROLS.items():
        found = table["differences"].get(f"{arm} - bbm", {}).get(TUNED, {}).get(TASKS[task].official)
        yield _claim(f"BBM > {name} in {TITLES[TASKS[task].official]}", _turned(found), expected=expected)


def _turned(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The difference with its sign reversed."""
    if found is None or found["value"] is None:
        return None
    turned = {name: found[name] and [-end for end in reversed(found[name])] for name in ("interval", "range")}
    return {"value": -found["value"], **turned}


def _agreement(tables: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for place, table in tables.items():
        for first, second in (("bbm", "deit"), ("deit", "transformer")):
            found = table["differences"].get(f"{first} - {second}", {}).get("r_squared")
            text = f"{NAMES[first]} > {NAMES[second]} in R² with the teacher, {place}"
            yield _claim(text, found)


def _groups(task: Task, table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    found = table["differences"].get("bbm - bbm-groups-1", {}).get(TUNED, {}).get(TASKS[task].official)
    n = table["groups_of_bbm"]
    yield _claim(
        f"BBM in {n} groups > in 1 group in {TITLES[TASKS[task].official]}", found, expected="not stated"
    )


def _features(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    means = {name: entry["diagonal_mean_per_seed"] for name, entry in table.get("arms", {}).items()}
    for first, second in (("bbm", "deit"), ("deit", "transformer")):
        text = f"{NAMES[first]} > {NAMES[second]} in CKA with the teacher's groups"
        yield _seen(text, means.get(first), means.get(second), "yes")


def _seen(
    text: str,
    first: Mapping[str, float | None] | None,
    second: Mapping[str, float | None] | None,
    expected: str,
) -> dict[str, Any]:
    """A claim that ``first`` is larger, from numbers by seed that have no interval over patients."""
    others = second or {}
    pairs = [(value, others.get(seed)) for seed, value in (first or {}).items()]
    gaps = [a - b for a, b in pairs if a is not None and b is not None]
    claim: dict[str, Any] = {"claim": text, "expected": expected}
    if not gaps:
        return claim | {"difference": None, "verdict": NOT_RUN}
    mean, ends = sum(gaps) / len(gaps), [round(min(gaps), 6), round(max(gaps), 6)]
    found = {"value": round(mean, 6), "interval": None, "range": ends}
    return claim | {"difference": found, "verdict": SEEN if min(gaps) > 0 else NOT_SEEN}


def _attention(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    gap = table.get("differences", {}).get("bbm - transformer", {})
    text = "BBM < Transformer in attention distance of the early blocks (by itself no proof of locality)"
    yield _claim(text, gap.get("distance", {}).get("early"), sign=-1, expected="likely in ECG")
    near = gap.get("local_mass", {}).get("early")
    within = f"within {table.get('window', 0)} {'h' if table.get('causal') else 'tokens'}"
    yield _claim(f"BBM > Transformer in early attention {within}", near, expected="likely in ECG")
    local = table.get("locality", {}).get("bbm")
    text = f"BBM is local: its early attention falls {within} at twice the odds of uniform attention"
    yield _claim(text, local, expected="the paper's argument")
    text = "BBM > Transformer in Toeplitz share of attention of the early blocks"
    a, b = (at(table, "arms", name, "toeplitz_share_early") for name in ("bbm", "transformer"))
    yield _seen(text, a, b, "likely in ECG")


def _scarcity(curves: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, found in curves.get("gaps", {}).items():
        first, second = (NAMES[method] for method in name.split(" - "))
        share = curves["smallest"]
        text = f"{first} - {second} is larger at {100 * share:g} % of the patients than at 100 %"
        yield _claim(
            text, found, expected="yes" if name == "teacher - transformer" else "the paper's argument"
        )


NOT_RUN = "not run"


def signed_decimal(value: float | None, digits: int = 3) -> str:
    """A difference with its sign."""
    text = decimal(value, digits)
    return text if value is None or text.startswith("-") or float(text) == 0 else f"+{text}"


def signed_bounds(interval: Sequence[float | None] | None, digits: int = 3) -> str:
    """``-0.012 to +0.034``; empty for no interval."""
    return "" if interval is None else " to ".join(signed_decimal(bound, digits) for bound in interval)


def cell(figure: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Value, interval and, with several seeds, their range; ``not run`` if there is no figure."""
    if figure is None:
        return NOT_RUN
    if figure["value"] is None:
        return UNDEFINED
    return ranged(figure, digits) + _seeds(figure, digits)


def gap(figure: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A difference with its interval; bold if that excludes 0."""
    if figure is None:
        return NOT_RUN
    if figure["value"] is None:
        return UNDEFINED
    text = signed_decimal(figure["value"], digits)
    if figure.get("interval"):
        text += f" ({signed_bounds(figure['interval'], digits)})"
    text = f"**{text}**" if figure.get("resolved") else text
    return text + _seeds(figure, digits)


def _seeds(figure: Mapping[str, Any], digits: int) -> str:
    if len(figure.get("per_seed", {})) < 2:
        return ""
    return f" [{bounds(figure['range'], digits)}]"


def image(title: str, path: str) -> list[str]:
    """An embedded image."""
    return ["", f"![{title}]({path})", ""]


def at(tree: Any, *keys: str) -> Any:
    """The value at ``keys`` in nested dictionaries; None if a key is missing."""
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def figure_file(name: str, place: str = TEST) -> str:
    """File of a figure; those of an external set have its name at the end."""
    file = FIGURES[name]
    return file if place == TEST else file.replace(".", f"-{place}.")


FIGURES = {
    "scores": "figure-1-scores.svg",
    "cka": "figure-2-cka.png",
    "attention": "figure-3-attention.png",
    "attention_numbers": "figure-3-attention-numbers.svg",
    "curves": "learning-curves.svg",
    "reliability": "reliability.svg",
    "alarms": "alarm-burden.svg",
}
"""File of each figure."""


def data_line(results: Mapping[str, Any]) -> str:
    """A sentence with the sizes of the parts, budget and seeds."""
    sets, seeds = results["data"]["sets"], results["seeds"]
    sizes = "; ".join(f"{name} {_size(sets[name])}" for name in ("train", "validation", "test"))
    runs = results["runs"]
    done = sum(run["trained"] for run in runs)
    return (
        f"**{results['task'].capitalize()}**: {sizes}; budget `{results['budget']}`, {done} of {len(runs)} "
        f"planned runs trained, seeds {', '.join(map(str, seeds))}; cache "
        f"`{results['data']['cache_sha256'][:12]}`, split `{results['data']['split_sha256'][:12]}`."
    )


def _size(entry: Mapping[str, int]) -> str:
    if "stays" in entry:
        return (
            f"{count(entry['stays'])} patients ({count(entry['septic'])} septic, {count(entry['hours'])} h)"
        )
    return f"{count(entry['recordings'])} ECGs of {count(entry['patients'])} patients"


def source(results: Mapping[str, Any], place: str, purpose: str) -> str:
    """Source line of a table: n, seeds, interval, command."""
    sets = results["data"]["sets"]
    size = _size(sets[place]) if place in sets else place
    return (
        f"n = {size}; seeds {', '.join(map(str, results['seeds']))}; 95 % intervals over patients, "
        f"{count(results['bootstrap']['draws'])} draws; `{results['command']} --only {purpose}`"
    )


def set_name(results: Mapping[str, Any], place: str, found: Mapping[str, Any]) -> str:
    """Name of the set whose size is given below a table."""
    return place if place in results["data"]["sets"] else str(found["set"])


def purpose_of(found: Mapping[str, Any]) -> str:
    """Purpose of the runs behind a table."""
    return "sites" if found["set"] == LEFT_OUT else "methods"
