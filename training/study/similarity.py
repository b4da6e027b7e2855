"""Figures 2 and 3 of the study: alignment of features with the teacher's, and attention of the students."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ibt_deploy.metrics import bootstrap
from ibt_deploy.types import Floats, Ints
from training.checkpoint import load_network
from training.distil import boundaries
from training.similarity.attention import attention_summary
from training.similarity.cka import BATCH, BATCHES, cka_grids, example_batches
from training.study.measures import subject_sha256
from training.study.plan import Run
from training.study.study import TEST, Arrays, Study, kept
from training.study.tables import difference, figure, number
from training.tasks import open_source
from training.tasks.base import Cohort, Source

SIMILARITY = "similarity"
CEILING = "ceiling"
STUDENT_ARMS = ("transformer", "deit-soft", "deit-hard", "bbm")
MOST_RECORDS = 1000
"""Records whose attention is measured; drawn without regard to anything."""
ATTENTION_BATCH = 16
VERSION = 2
NUMBERS = ("distance", "local_mass", "entropy")
UNIFORM = "uniform_local_mass"
LOCAL_FACTOR = 2.0
"""Attention counts as local where this multiple of the uniform share falls within the window."""


@dataclass(frozen=True, eq=False)
class Alignments:
    """Of one seed: CKA of the teacher with each student and with the next teacher.

    Attributes
    ----------
    units
        By arm: ``(teacher's units, other's units)``.
    groups
        By arm: the part between the ends of matched groups; empty where units do not divide.
    n_batches, batch_size
        Examples that the estimate is from.
    """

    units: dict[str, Floats]
    groups: dict[str, Floats]
    n_batches: int
    batch_size: int


class Similarities:
    """Computes what is missing, and opens the training data only for that."""

    def __init__(self, study: Study, split: Any, device: torch.device) -> None:
        self.study, self.split, self.device = study, split, device
        self._source: Source | None = None

    def _opened(self, run: Run) -> Source:
        """The data as the full-data runs see them; few stays at once, because attention is quadratic."""
        if self._source is None:
            fit = replace(run.recipe.fit, batch_size=ATTENTION_BATCH)
            cache = self.study.cohort.cache.folder
            self._source = open_source(replace(run.recipe, fit=fit), cache, self.split)
        return self._source

    def _finished(self, seed: int) -> dict[str, Run]:
        """The finished runs of a seed that are compared, by arm."""
        names = {arm: f"{arm}/seed-{seed}" for arm in ("teacher", *STUDENT_ARMS)}
        names[CEILING] = f"teacher/seed-{seed + 1}"
        return {arm: self.study.runs[n] for arm, n in names.items() if n in self.study.trained}

    def _key(self, runs: Mapping[str, Run], **more: Any) -> dict[str, Any]:
        test = next(iter(self.study.subjects(run)[TEST] for run in runs.values()))
        networks = {arm: self.study.trained[run.name]["network_sha256"] for arm, run in runs.items()}
        return {"version": VERSION, "networks": networks, "set": subject_sha256(test), **more}

    def _kept(self, name: str, key: dict[str, Any], make: Callable[[], Arrays]) -> Arrays:
        return kept(self.study.out / SIMILARITY / f"{name}.npz", key, make)

    def alignments(self, seed: int) -> Alignments | None:
        """CKA of a seed; None without its teacher or without anything to compare it with."""
        runs = self._finished(seed)
        teacher = runs.get("teacher")
        if teacher is None or len(runs) < 2:
            return None

        def make() -> Arrays:
            networks = {
                arm: load_network(self.study.checkpoint(run)).network.to(self.device)
                for arm, run in runs.items()
            }
            reference = networks.pop("teacher")
            source = self._opened(teacher)
            batches = example_batches(source, source.items("test"))
            grids = cka_grids(reference, networks, batches, self.device)
            arrays: Arrays = {f"units|{arm}": grid.matrix for arm, grid in grids.items()}
            for arm, grid in grids.items():
                pairs = boundaries(_matching(runs[arm]), reference.n_units, networks[arm].n_units)
                arrays[f"groups|{arm}"] = grid.at_boundaries(pairs)
            one = next(iter(grids.values()))
            return arrays | {"batches": np.array([one.n_batches, one.batch_size])}

        found = self._kept(f"cka/seed-{seed}", self._key(runs, size=BATCH, most=BATCHES), make)
        n_batches, size = (int(n) for n in found["batches"])
        return Alignments(_under(found, "units|"), _under(found, "groups|"), n_batches, size)

    def attention(self, arm: str, seed: int) -> Arrays | None:
        """Attention of a student, None where it has not been trained.

        Returns
        -------
        ``averaged`` ``(blocks, tokens, tokens)``, ``reached`` ``(tokens,)``, ``items`` ``(records,)``; for
        each record and block ``distance``, ``local_mass``, ``entropy``; their values under uniform attention
        ``uniform_...`` ``(records,)``; ``toeplitz_share`` ``(blocks,)``; ``window`` in tokens;
        ``token_seconds``.
        """
        run = self.study.runs.get(f"{arm}/seed-{seed}")
        if run is None or run.name not in self.study.trained:
            return None
        items = self._drawn(self.study.subjects(run)[TEST].items)

        def make() -> Arrays:
            network = load_network(self.study.checkpoint(run)).network.to(self.device)
            found = attention_summary(network, self._opened(run), items, self.device)
            kinds = (*NUMBERS, *(f"uniform_{name}" for name in NUMBERS), "toeplitz_share", "reached", "items")
            arrays: Arrays = {kind: getattr(found, kind) for kind in kinds}
            return arrays | {
                "averaged": found.averaged.astype(np.float32),
                "window": np.array(found.window),
                "token_seconds": np.array(found.token_seconds),
                "causal": np.array(found.causal),
            }

        return self._kept(f"attention/{run.name}", self._key({arm: run}, most=MOST_RECORDS), make)

    @staticmethod
    def _drawn(items: Ints) -> Ints:
        chosen = np.random.default_rng(0).permutation(len(items))[:MOST_RECORDS]
        return items[np.sort(chosen)]


def _matching(run: Run) -> Any:
    """A recipe with the task's own number of groups."""
    return replace(run.recipe, bbm=replace(run.recipe.bbm, groups=0))


def _under(arrays: Arrays, prefix: str) -> dict[str, Floats]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


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
    even: dict[int, Floats] = {}
    toeplitz: dict[str, dict[int, Floats]] = {}
    described: dict[str, Any] = {}
    for arm in STUDENT_ARMS:
        for seed in seeds:
            found = similarities.attention(arm, seed)
            if found is None:
                continue
            described = _described(found, cohort)
            toeplitz.setdefault(arm, {})[seed] = found["toeplitz_share"]
            *numbers, (_, even[seed]) = _drawn(found, cohort, draws).items()
            for name, blocks in numbers:
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
    locality = {
        arm: difference(_early(names["local_mass"]), {seed: LOCAL_FACTOR * even[seed] for seed in even})
        for arm, names in drawn.items()
    }
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
    """By number, for each block, its mean over records on every draw of patients; :data:`UNIFORM` last."""
    truth = cohort.truth(found["items"])
    patients, once = truth.patients[truth.offsets[:-1]], np.ones(len(found["items"]))
    blocks = range(found["distance"].shape[1])
    statistics = {
        f"{name}|{block}": bootstrap.ratio(found[name][:, block], once, patients)
        for name in NUMBERS
        for block in blocks
    }
    statistics[UNIFORM] = bootstrap.ratio(found[UNIFORM], once, patients)
    values = bootstrap.drawn_values(statistics, truth.n_patients, draws=draws)
    numbers = {name: [values[f"{name}|{block}"] for block in blocks] for name in NUMBERS}
    return numbers | {UNIFORM: values[UNIFORM]}


def _by_block(by_seed: Mapping[int, list[Floats]], made: Any) -> list[Any]:
    n_blocks = len(next(iter(by_seed.values())))
    return [made(_block(by_seed, block)) for block in range(n_blocks)]


def _gaps(first: Mapping[int, list[Floats]], second: Mapping[int, list[Floats]]) -> dict[str, Any]:
    """Difference in every block, and in the mean of the first half of them."""
    n_blocks = len(next(iter(first.values())))
    each = [difference(_block(first, block), _block(second, block)) for block in range(n_blocks)]
    return {"blocks": each, "early": difference(_early(first), _early(second))}


def _early(by_seed: Mapping[int, list[Floats]]) -> dict[int, Floats]:
    """Mean of the first half of the blocks."""
    return {seed: np.mean(blocks[: (len(blocks) + 1) // 2], axis=0) for seed, blocks in by_seed.items()}


def _block(by_seed: Mapping[int, list[Floats]], block: int) -> dict[int, Floats]:
    return {seed: blocks[block] for seed, blocks in by_seed.items()}


def _grid(matrix: Floats) -> list[list[float | None]]:
    return [[number(value) for value in row] for row in matrix]
