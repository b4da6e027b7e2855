"""Centred kernel alignment of the features of two networks, layer by layer.

The unbiased minibatch estimator of Nguyen, Raghu and Kornblith (2021, Eq. 2-3; science 6.5): with linear
kernels whose diagonals are set to 0, over batches ``b`` of ``n`` examples::

    HSIC1(K, L) = 1 / (n (n-3)) * [tr(KL) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2/(n-2) 1'KL1]
    CKA = mean_b HSIC1(K_b, L_b) / sqrt(mean_b HSIC1(K_b, K_b) * mean_b HSIC1(L_b, L_b))

The biased estimator cannot be used: on a few hundred examples it rates two independent networks as similar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibt_deploy.errors import DataError
from ibt_deploy.types import Floats, Ints
from training.models import Encoder
from training.tasks.base import ExampleBatch, Source

BATCH, BATCHES = 256, 10


def example_batches(
    source: Source, items: Ints, *, size: int = BATCH, most: int = BATCHES, seed: int = 0
) -> Iterator[ExampleBatch]:
    """Batches of equally many examples, drawn without replacement.

    An example is an ECG, or an hour of a stay, at most four hours a stay. Where the data give fewer than
    ``most`` batches of ``size``, there are as many as there can be, and the examples left over are shared
    among them: 365 ECGs are one batch of 365.

    Parameters
    ----------
    source, items
        Where the examples come from.
    size, most
        Examples in a batch, and number of batches; the specification asks for 256 and at least 10.
    seed
        Of the draw.

    Raises
    ------
    DataError
        When there are fewer than four examples.
    """
    rng = np.random.default_rng(seed)
    examples = source.examples(items, rng)
    examples = examples[rng.permutation(len(examples))]
    if len(examples) < 4:
        raise DataError(f"{len(examples)} examples are too few to compare features")
    n_batches = min(max(len(examples) // size, 1), most)
    each = size if n_batches == most else len(examples) // n_batches
    for start in range(0, n_batches * each, each):
        yield source.example_batch(examples[start : start + each])


def unit_features(network: Encoder, batch: ExampleBatch, device: torch.device | str) -> Iterator[Tensor]:
    """Features ``(n, p)`` of every unit in turn, examples in the same order for every network."""
    network.eval()
    flowing = [piece.to(device) for piece in batch.pieces]
    for unit in range(network.n_units):
        flowing = [network.segment(z, unit, unit + 1) for z in flowing]
        if batch.hours is None:
            yield network.matched_tokens(flowing[0]).flatten(1)
        else:
            yield torch.cat(
                [
                    z[at[:, 0], at[:, 1]]
                    for z, at in zip(flowing, map(torch.from_numpy, batch.hours), strict=True)
                ]
            )


COLUMNS = 8192
"""Features converted to float64 at once."""
LEAST_EXAMPLES = 4
"""The estimator divides by ``n - 3``."""


@dataclass(frozen=True, eq=False)
class CKA:
    """Similarity of every unit of one network with every unit of another.

    Attributes
    ----------
    matrix
        Shape ``(units of the reference, units of the other)``; 1 for features equal up to rotation and
        scale, about 0 (also slightly below) for unrelated ones, NaN where a unit's features are constant.
    n_batches, batch_size
        What was averaged over. Fewer than ten batches is a rougher estimate than the specification asks for.
    """

    matrix: Floats
    n_batches: int
    batch_size: int

    @property
    def n_examples(self) -> int:
        """Records, or hours of stays."""
        return self.n_batches * self.batch_size

    def at_boundaries(self, pairs: Iterable[tuple[int, int]]) -> Floats:
        """The part of the matrix between matched groups, ``(groups, groups)``.

        ``pairs`` are those of :func:`training.tasks.boundaries`: units, counted from 1, after which
        groups end.
        """
        ends = [(t - 1, s - 1) for t, s in pairs]
        grid: Floats = self.matrix[np.ix_([t for t, _ in ends], [s for _, s in ends])]
        return grid

    def to_dict(self) -> dict[str, Any]:
        """Plain data; NaN becomes None."""
        return {
            "matrix": [[None if np.isnan(v) else float(v) for v in row] for row in self.matrix],
            "n_batches": self.n_batches,
            "batch_size": self.batch_size,
        }


def gram(features: Tensor) -> Tensor:
    """Linear kernel ``(n, n)`` in float64 with zero diagonal, of features ``(n, p)``.

    Columns are centred, which changes no estimate (HSIC1 is invariant to it) but keeps large means from
    costing digits.
    """
    n = features.shape[0]
    kernel = torch.zeros(n, n, dtype=torch.float64, device=features.device)
    for columns in torch.split(features, COLUMNS, dim=1):
        wide = columns.double()
        wide = wide - wide.mean(dim=0)
        kernel.addmm_(wide, wide.T)
    return kernel.fill_diagonal_(0.0)


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased HSIC of every pair of zero-diagonal kernels.

    Parameters
    ----------
    first, second
        Shapes ``(a, n, n)`` and ``(b, n, n)``, symmetric.

    Returns
    -------
    Shape ``(a, b)``.
    """
    n = first.shape[-1]
    if n < LEAST_EXAMPLES:
        raise ValueError(f"{n} examples; the unbiased estimator needs {LEAST_EXAMPLES}")
    trace = first.flatten(1) @ second.flatten(1).T
    rows_1, rows_2 = first.sum(dim=-1), second.sum(dim=-1)
    sums = torch.outer(rows_1.sum(dim=-1), rows_2.sum(dim=-1)) / ((n - 1) * (n - 2))
    estimate: Tensor = (trace + sums - 2 / (n - 2) * (rows_1 @ rows_2.T)) / (n * (n - 3))
    return estimate


class Alignment:
    """CKA of two stacks of layers, fed batch by batch; keeps three small matrices, not the features."""

    def __init__(self) -> None:
        self._cross: list[Tensor] = []
        self._first: list[Tensor] = []
        self._second: list[Tensor] = []
        self._size = 0

    def add(self, first: Tensor, second: Tensor) -> None:
        """Kernels ``(a, n, n)`` and ``(b, n, n)`` of the same ``n`` examples; ``n`` as in other batches."""
        if self._size not in (0, first.shape[-1]) or first.shape[-1] != second.shape[-1]:
            raise ValueError("all batches of an estimate hold equally many examples")
        self._size = first.shape[-1]
        self._cross.append(hsic(first, second))
        self._first.append(_own(first))
        self._second.append(_own(second))

    def result(self) -> CKA:
        """The estimate over all batches."""
        cross = torch.stack(self._cross).mean(dim=0)
        first, second = torch.stack(self._first).mean(dim=0), torch.stack(self._second).mean(dim=0)
        scale = torch.outer(first.clamp(min=0), second.clamp(min=0)).sqrt()
        matrix = torch.where(scale > 0, cross / scale, torch.nan)
        return CKA(matrix.cpu().numpy(), len(self._cross), self._size)


def _own(kernels: Tensor) -> Tensor:
    return torch.cat([hsic(one[None], one[None])[0] for one in kernels])


@torch.no_grad()
def cka_grids(
    reference: Encoder,
    others: Mapping[str, Encoder],
    batches: Iterable[ExampleBatch],
    device: torch.device | str = "cpu",
) -> dict[str, CKA]:
    """CKA of every unit of ``reference`` with every unit of each of ``others``, on the same examples.

    Features are those between units: of a residual block all steps and channels of its output, of a
    transformer block its tokens without class or distillation tokens, of stays one hour. The final norm
    belongs to the last unit, as everywhere (:meth:`training.models.Encoder.segment`). Only one
    layer's features are held in float64 at a time.

    Parameters
    ----------
    reference
        The teacher.
    others
        Students, and the second teacher that gives the ceiling. One that *is* ``reference`` costs nothing.
    batches
        Examples, from :func:`training.similarity.cka.example_batches`.
    """
    alignments = {name: Alignment() for name in others}
    for batch in batches:
        of_reference = _kernels(reference, batch, device)
        for name, other in others.items():
            kernels = of_reference if other is reference else _kernels(other, batch, device)
            alignments[name].add(of_reference, kernels)
    return {name: alignment.result() for name, alignment in alignments.items()}


def _kernels(network: Encoder, batch: ExampleBatch, device: torch.device | str) -> Tensor:
    return torch.stack([gram(features) for features in unit_features(network, batch, device)])
