"""Figures 2 and 3 of the study: alignment of features with the teacher's, and what the students attend to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from training.checkpoint import load_network
from training.networks import boundaries
from training.run import open_source
from training.similarity.attention import attention_summary
from training.similarity.cka import cka_grids
from training.similarity.examples import BATCH, BATCHES, example_batches
from training.sources import Source
from training.study.cohort import Floats, Ints
from training.study.outputs import subject_sha256
from training.study.plan import Run
from training.study.store import Arrays, kept
from training.study.study import TEST, Study

SIMILARITY = "similarity"
CEILING = "ceiling"
STUDENT_ARMS = ("transformer", "deit-soft", "deit-hard", "bbm")
MOST_RECORDS = 1000
"""Records whose attention is measured; drawn without regard to anything."""
ATTENTION_BATCH = 16
VERSION = 1
NUMBERS = ("distance", "local_mass", "entropy")


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
        ``uniform_...`` ``(records,)``; ``toeplitz_share`` ``(blocks,)``; ``window`` in tokens.
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
