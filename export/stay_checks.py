"""What only a graph of stays must prove: that it never looks ahead, and that hours may come one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from export.parity import largest_difference
from ibt_deploy.scorers.session import OpenGraph

Features = Sequence[npt.NDArray[np.float32]]


class StayGraph:
    """An open graph of stays, run on one stay at a time or on equal lengths at once."""

    def __init__(self, graph: OpenGraph) -> None:
        self._graph = graph

    def logits(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits ``(batch, hours)`` of rows ``(batch, hours, features)``, all at once."""
        return self._step(rows, 0, *self._graph.empty_cache(len(rows)))[0]

    def streamed_logits(self, rows: npt.NDArray[np.float32], steps: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits of one stay ``(hours, features)`` whose rows arrive in ``steps``, as ``(hours,)``."""
        keys, values = self._graph.empty_cache(1)
        found, start = [], 0
        for n in steps:
            logits, keys, values = self._step(rows[None, start : start + n], start, keys, values)
            found.append(logits[0])
            start += n
        return np.concatenate(found)

    def _step(
        self,
        rows: npt.NDArray[np.float32],
        start: int,
        keys: npt.NDArray[Any],
        values: npt.NDArray[Any],
    ) -> list[npt.NDArray[Any]]:
        batch, hours = rows.shape[:2]
        position = np.tile(np.arange(start, start + hours), (batch, 1))
        inputs = {"rows": rows, "position": position, "past_k": keys, "past_v": values}
        return self._graph.run(["logit", "present_k", "present_v"], inputs)


def streaming_difference(graph: StayGraph, stays: Features) -> float:
    """Largest difference of logits between whole stays and the same in steps.

    Every second stay comes hour by hour; the others come as all rows but the last, then the last, which tries
    the longest caches.
    """
    worst = 0.0
    for i, rows in enumerate(stays):
        hours = len(rows)
        steps = [1] * hours if i % 2 == 0 or hours == 1 else [hours - 1, 1]
        worst = max(
            worst, largest_difference(graph.streamed_logits(rows, steps), graph.logits(rows[None])[0])
        )
    return worst


def earlier_change(graph: StayGraph, stays: Features, seed: int = 0) -> float:
    """Largest change of any earlier logit when the later half of a stay is replaced by other rows.

    The replacement is drawn from a normal distribution of five times the rows' own deviation: large enough to
    move a scale that is taken over the whole tensor.
    """
    rng = np.random.default_rng(seed)
    worst = 0.0
    for rows in stays:
        keep = len(rows) // 2
        other = rows.copy()
        other[keep:] = rng.normal(0, 5 * max(float(rows.std()), 1e-3), other[keep:].shape)
        if keep:
            both = np.stack([rows, other])
            first, second = (graph.logits(both[i : i + 1])[0, :keep] for i in range(2))
            worst = max(worst, float(np.abs(first.astype(np.float64) - second).max()))
    return worst


def batch_change(graph: StayGraph, stays: Features) -> float:
    """Largest change of any logit of a stay when it shares its batch with another stay."""
    worst = 0.0
    for rows, mate in zip(stays, [*stays[1:], stays[0]], strict=True):
        hours = max(len(rows), len(mate))
        batch = np.zeros((2, hours, rows.shape[1]), dtype=np.float32)
        batch[0, : len(rows)], batch[1, : len(mate)] = rows, mate
        alone, together = graph.logits(rows[None])[0], graph.logits(batch)[0, : len(rows)]
        worst = max(worst, float(np.abs(alone.astype(np.float64) - together).max()))
    return worst
