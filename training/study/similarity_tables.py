"""What the similarities say in numbers, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ibt_deploy.metrics import bootstrap
from training.study.cohort import Cohort, Floats
from training.study.similarity import CEILING, NUMBERS, STUDENT_ARMS, Alignments, Similarities
from training.study.store import Arrays
from training.study.tables import difference, figure, number

CONVOLUTION_LIKE = ("distance", "local_mass", "toeplitz_share")


def cka_table(found: Mapping[int, Alignments], deit: str | None) -> dict[str, Any]:
    """Matrices, mean over seeds, and the mean of the group-level diagonal.

    Parameters
    ----------
    found
        By seed.
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
    similarities: Similarities, cohort: Cohort, seeds: Sequence[int], deit: str | None, draws: int
) -> dict[str, Any]:
    """Numbers of every block, with intervals over patients, and differences between students."""
    drawn: dict[str, dict[str, dict[int, list[Floats]]]] = {}
    toeplitz: dict[str, dict[int, Floats]] = {}
    described: dict[str, Any] = {}
    for arm in STUDENT_ARMS:
        for seed in seeds:
            found = similarities.attention(arm, seed)
            if found is None:
                continue
            described = _described(found, cohort)
            toeplitz.setdefault(arm, {})[seed] = found["toeplitz_share"]
            for name, blocks in _drawn(found, cohort, draws).items():
                drawn.setdefault(arm, {}).setdefault(name, {})[seed] = blocks
    if deit in drawn:
        drawn["deit"], toeplitz["deit"] = drawn[deit], toeplitz[deit]
    table = {
        arm: {name: _by_block(by_seed, figure) for name, by_seed in names.items()}
        | {"toeplitz_share": [number(v) for v in np.mean(list(toeplitz[arm].values()), axis=0)]}
        for arm, names in drawn.items()
    }
    pairs = [(a, b) for a, b in (("bbm", "transformer"), ("bbm", "deit")) if a in drawn and b in drawn]
    gaps = {f"{a} - {b}": {name: _gaps(drawn[a][name], drawn[b][name]) for name in NUMBERS} for a, b in pairs}
    return described | {"arms": table, "differences": gaps} if table else {}


def _described(found: Arrays, cohort: Cohort) -> dict[str, Any]:
    return {
        "records": len(found["items"]),
        "patients": cohort.truth(found["items"]).n_patients,
        "window": int(found["window"]),
        "causal": bool(found["causal"]),
        "reached": [int(n) for n in found["reached"]],
        "uniform": {name: number(float(found[f"uniform_{name}"].mean())) for name in NUMBERS},
    }


def _drawn(found: Arrays, cohort: Cohort, draws: int) -> dict[str, list[Floats]]:
    """By number, for each block, its mean over records on every draw of patients."""
    truth = cohort.truth(found["items"])
    patients, once = truth.patients[truth.offsets[:-1]], np.ones(len(found["items"]))
    blocks = range(found["distance"].shape[1])
    statistics = {
        f"{name}|{block}": bootstrap.ratio(found[name][:, block], once, patients)
        for name in NUMBERS
        for block in blocks
    }
    values = bootstrap.drawn_values(statistics, truth.n_patients, draws=draws)
    return {name: [values[f"{name}|{block}"] for block in blocks] for name in NUMBERS}


def _by_block(by_seed: Mapping[int, list[Floats]], made: Any) -> list[Any]:
    n_blocks = len(next(iter(by_seed.values())))
    return [made(_block(by_seed, block)) for block in range(n_blocks)]


def _gaps(first: Mapping[int, list[Floats]], second: Mapping[int, list[Floats]]) -> dict[str, Any]:
    """Difference in every block, and in the mean of the first half of them."""
    n_blocks = len(next(iter(first.values())))
    early = [
        {seed: np.mean(blocks[: (n_blocks + 1) // 2], axis=0) for seed, blocks in one.items()}
        for one in (first, second)
    ]
    each = [difference(_block(first, block), _block(second, block)) for block in range(n_blocks)]
    return {"blocks": each, "early": difference(early[0], early[1])}


def _block(by_seed: Mapping[int, list[Floats]], block: int) -> dict[int, Floats]:
    return {seed: blocks[block] for seed, blocks in by_seed.items()}


def _grid(matrix: Floats) -> list[list[float | None]]:
    return [[number(value) for value in row] for row in matrix]
