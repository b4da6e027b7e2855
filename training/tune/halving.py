"""Asynchronous successive halving (ASHA; Li et al. 2020), stopping trials as Ray Tune's scheduler does.

A trial that has trained ``grace * factor^k`` epochs is compared with all that were there before it, by its
best score so far; it stops below the cut to the best ``1 / factor``. Nobody waits for anybody, so that with
several trials at a time decisions depend on who comes first. With one at a time they do not.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FACTOR = 3


def rungs(grace: int, max_epochs: int, factor: int = FACTOR) -> tuple[int, ...]:
    """Epochs after which trials are compared, ascending, all before the last epoch."""
    found, epoch = [], grace
    while epoch < max_epochs:
        found.append(epoch)
        epoch *= factor
    return tuple(found)


@dataclass(frozen=True)
class Halving:
    """Decisions of one search, each written to ``path`` before it takes effect.

    A trial that was killed and comes to a rung again gets the decision it got there before. Processes may
    share the file: whoever decides holds a lock.
    """

    path: Path
    rungs: tuple[int, ...]
    factor: int = FACTOR

    def keeps(self, trial: int, epochs: int, score: float) -> bool:
        """Whether ``trial`` goes on after ``epochs`` epochs with ``score`` as its best so far."""
        if epochs not in self.rungs:
            return True
        with self._locked() as found:
            here = [entry for entry in found if entry["epochs"] == epochs]
            for entry in here:
                if entry["trial"] == trial:
                    return bool(entry["keep"])
            cut = np.percentile([e["score"] for e in here], 100 * (1 - 1 / self.factor)) if here else -np.inf
            keep = bool(score >= cut)
            self._append({"trial": trial, "epochs": epochs, "score": score, "keep": keep})
        return keep

    @contextmanager
    def _locked(self) -> Iterator[list[dict[str, Any]]]:
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._read()

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # a line cut short by a kill never took effect
                continue
        return found

    def _append(self, entry: dict[str, Any]) -> None:
        whole = "".join(json.dumps(e) + "\n" for e in [*self._read(), entry])
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(whole, encoding="utf-8")
        partial.replace(self.path)
