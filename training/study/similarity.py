"""Internal similarity of two networks: in their features, and in their attention (Figures 2 and 3).

Neither is a measure of quality. Compare each with its ceiling, a second teacher with another seed. Agreement
of outputs is in :mod:`training.study.measures`.

Features are compared by centred kernel alignment, layer by layer: the unbiased minibatch estimator of Nguyen,
Raghu and Kornblith (2021, Eq. 2-3), with linear kernels whose diagonals are set to 0, over
batches ``b`` of ``n`` examples::

    HSIC1(K, L) = 1 / (n (n-3)) * [tr(KL) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2/(n-2) 1'KL1]
    CKA = mean_b HSIC1(K_b, L_b) / sqrt(mean_b HSIC1(K_b, K_b) * mean_b HSIC1(L_b, L_b))

The biased estimator cannot be used: on a few hundred examples it rates two independent networks as similar.

A block that works like a convolution attends locally (small distance, high local mass) and in the same way at
every position (high Toeplitz share). Distance, local mass and entropy are measured per head and record and
then averaged, because averaging the matrices first would hide attention that depends on the content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ibt_deploy.errors import DataError
from ibt_deploy.types import Floats, Ints
from training.checkpoint import load_network
from training.data.augment import SAMPLING_RATE
from training.distil import boundaries
from training.models import Encoder
from training.models.students import Block, EcgTransformer, StayDeiT, causal_mask
from training.study.measures import subject_sha256
from training.study.plan import Run
from training.study.study import TEST, Arrays, Study, kept
from training.tasks import open_source
from training.tasks.base import ExampleBatch, Source

BATCH, BATCHES = 256, 10


def example_batches(
    source: Source, items: Ints, *, size: int = BATCH, most: int = BATCHES, seed: int = 0
) -> Iterator[ExampleBatch]:
    """Batches of equal size, drawn without replacement.

    An example is an ECG, or an hour of a stay, at most four hours per stay. If the data give fewer than
    ``most`` batches of ``size``, there are as many as possible, and the remaining examples are spread among
    them: 365 ECGs make one batch of 365.

    Parameters
    ----------
    source, items
        Data set and items that the examples come from.
    size, most
        Examples in a batch, and largest number of batches.
    seed
        Seed of the draw.

    Raises
    ------
    DataError
        When there are fewer than four examples.
    """
    rng = np.random.default_rng(seed)
    examples = source.examples(items, rng)
    examples = examples[rng.permutation(len(examples))]
    if len(examples) < LEAST_EXAMPLES:
        raise DataError(f"{len(examples)} examples are too few to compare features")
    n_batches = min(max(len(examples) // size, 1), most)
    each = size if n_batches == most else len(examples) // n_batches
    for start in range(0, n_batches * each, each):
        yield source.example_batch(examples[start : start + each])


def unit_features(network: Encoder, batch: ExampleBatch, device: torch.device | str) -> Iterator[Tensor]:
    """Yield the features ``(n, p)`` of each unit in turn, examples in the same order for every network."""
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
"""Number of features converted to float64 at once."""
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
        Number and size of the batches. Fewer than ten give a rough estimate.
    """

    matrix: Floats
    n_batches: int
    batch_size: int

    def at_boundaries(self, pairs: Iterable[tuple[int, int]]) -> Floats:
        """The part of the matrix between matched groups, ``(groups, groups)``.

        ``pairs`` are those of :func:`training.distil.boundaries`: units, counted from 1, after which
        groups end.
        """
        ends = [(t - 1, s - 1) for t, s in pairs]
        grid: Floats = self.matrix[np.ix_([t for t, _ in ends], [s for _, s in ends])]
        return grid


def gram(features: Tensor) -> Tensor:
    """Linear kernel ``(n, n)`` in float64 with zero diagonal, of features ``(n, p)``.

    Columns are centred, which changes no estimate (HSIC1 is invariant to it) but avoids a loss of precision
    through large means.
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
    """CKA of two stacks of layers, accumulated batch by batch in three small matrices."""

    def __init__(self) -> None:
        self._cross: list[Tensor] = []
        self._first: list[Tensor] = []
        self._second: list[Tensor] = []
        self._size = 0

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add kernels ``(a, n, n)`` and ``(b, n, n)`` of the same ``n`` examples, ``n`` as in all batches."""
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

    Features are the outputs of units: all steps and channels of a residual block, all tokens of a transformer
    block except class and distillation tokens, and for stays one hour. The final norm belongs to the last
    unit, as always (:meth:`training.models.Encoder.segment`). Only one layer's features are held in float64
    at a time.

    Parameters
    ----------
    reference
        The teacher.
    others
        Students, and the second teacher that gives the ceiling. One that *is* ``reference`` adds no cost.
    batches
        Examples, from :func:`example_batches`.
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


LOCAL_SECONDS, LOCAL_HOURS = 0.5, 6
WELL_REACHED = 0.1
"""Rows reached by fewer than this share of the stays are left out of the Toeplitz share."""


@dataclass(frozen=True, eq=False)
class AttentionSummary:
    """Attention of every block over a set of records.

    Attributes
    ----------
    averaged
        Mean over records and heads, ``(blocks, tokens, tokens)``; rows sum to 1. For stays the lower
        triangle; row ``t`` is the mean over the stays that reach it, NaN if none does.
    reached
        Number of records that reach each row, ``(tokens,)``.
    items
        The records, in the order of the next three.
    distance
        ``mean_i sum_j A_ij |i - j|`` in tokens (patches, or hours), mean over heads; ``(records, blocks)``.
    local_mass
        Share of attention within ``window`` tokens, likewise.
    entropy
        Entropy of a row in nats, mean over rows, likewise.
    uniform_distance, uniform_local_mass, uniform_entropy
        Values for uniform attention (for stays, over the past) in each record, ``(records,)``.
    toeplitz_share
        :func:`toeplitz_share` of ``averaged``, ``(blocks,)``, over the rows that every ECG reaches. For
        stays, over the causal part of the rows that at least a tenth of the stays reach.
    window
        Half a second in whole tokens (5 of the paper's patches, 2 of 200 ms), or 6 hours.
    token_seconds
        Length of a patch, 0 for stays.
    causal
        Whether tokens see only the past.
    """

    averaged: Floats
    reached: Ints
    items: Ints
    distance: Floats
    local_mass: Floats
    entropy: Floats
    uniform_distance: Floats
    uniform_local_mass: Floats
    uniform_entropy: Floats
    toeplitz_share: Floats
    window: int
    token_seconds: float
    causal: bool


@torch.no_grad()
def attention_summary(
    network: Encoder, source: Source, items: Ints, device: torch.device | str = "cpu"
) -> AttentionSummary:
    """Attention of a transformer over ``items``, batch by batch; only sums are kept.

    Rows and columns of class and distillation tokens are removed, and the rows renormalised to sum to 1.
    """
    network.eval()
    causal = not isinstance(network, EcgTransformer)
    token_seconds = network.patch / SAMPLING_RATE if isinstance(network, EcgTransformer) else 0.0
    window = LOCAL_HOURS if causal else max(int(LOCAL_SECONDS / token_seconds), 1)
    sums: Tensor | None = None
    reached = np.zeros(0, dtype=np.int64)
    order, measured, uniform = [], [], []
    for chosen, batch in source.plain(items):
        inputs = batch.inputs.to(device)
        with recorded(network) as recorder:
            network(inputs)
        weights = [token_weights(network, w, inputs) for w in recorder]
        tokens = weights[0].shape[-1]
        rows = torch.ones(len(inputs), tokens) if batch.rows is None else batch.rows
        rows = rows.to(device=weights[0].device, dtype=torch.float64)
        measured.append(torch.stack([measures(w, rows, window) for w in weights], dim=1).cpu())
        uniform.append(measures(uniform_attention(tokens, causal).to(rows.device), rows, window)[:, 0].cpu())
        totals = torch.stack([torch.einsum("bhij,bi->ij", w.double(), rows) / w.shape[1] for w in weights])
        sums = totals.cpu() if sums is None else _larger(sums, tokens) + _larger(totals.cpu(), len(sums[0]))
        here = rows.sum(dim=0).cpu().numpy().astype(np.int64)
        reached = np.pad(reached, (0, max(tokens - len(reached), 0)))
        reached[:tokens] += here
        order.append(chosen)
    assert sums is not None
    back = np.argsort(np.argsort(items))
    sorter = np.argsort(np.concatenate(order))
    by_head = torch.cat(measured).numpy()[sorter][back]  # records, blocks, heads, measures
    even = torch.cat(uniform).numpy()[sorter][back]
    averaged = np.where(reached[:, None] > 0, sums.numpy() / np.maximum(reached, 1)[:, None], np.nan)
    well = int((reached >= (WELL_REACHED if causal else 1) * len(items)).sum())
    return AttentionSummary(
        averaged=averaged,
        reached=reached,
        items=items,
        distance=by_head[..., 0].mean(axis=2),
        local_mass=by_head[..., 1].mean(axis=2),
        entropy=by_head[..., 2].mean(axis=2),
        uniform_distance=even[:, 0],
        uniform_local_mass=even[:, 1],
        uniform_entropy=even[:, 2],
        toeplitz_share=np.array([toeplitz_share(a[:well, :well], causal=causal) for a in averaged]),
        window=window,
        token_seconds=token_seconds,
        causal=causal,
    )


def _larger(sums: Tensor, tokens: int) -> Tensor:
    missing = max(tokens - sums.shape[-1], 0)
    return nn.functional.pad(sums, (0, missing, 0, missing))


@contextmanager
def recorded(network: Encoder) -> Iterator[list[Tensor]]:
    """Record the softmax matrices of every block's attention in one forward pass, masked as in the network.

    For a stay student with queries, only those of its hours, which see no query.
    """
    found: list[Tensor] = []

    def hooks_of(block: Block) -> RemovableHandle:
        def keep(_norm: nn.Module, _args: tuple[Any, ...], z: Tensor) -> None:
            hours = z[:, : z.shape[1] // 2] if isinstance(network, StayDeiT) else z
            tokens = hours.shape[1]
            mask = None if isinstance(network, EcgTransformer) else causal_mask(tokens, tokens, z.device)
            found.append(block.attention.weights(hours, mask))

        return block.norm1.register_forward_hook(keep)

    hooks = [hooks_of(module) for module in network.modules() if isinstance(module, Block)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def token_weights(network: Encoder, weights: Tensor, inputs: Tensor) -> Tensor:
    """Attention among the tokens that represent a stretch of the input, rows summing to 1.

    ECG students have class and distillation tokens in front of the patches; stay students have queries
    behind the hours.
    """
    if isinstance(network, EcgTransformer):
        weights = weights[..., network.n_extra :, network.n_extra :]
    else:
        weights = weights[..., : inputs.shape[1], : inputs.shape[1]]
    return weights / weights.sum(dim=-1, keepdim=True)


def measures(weights: Tensor, rows: Tensor, window: int) -> Tensor:
    """Mean distance, local mass and entropy of attention.

    Parameters
    ----------
    weights
        ``(batch or 1, heads, tokens, tokens)``, rows summing to 1.
    rows
        ``(batch, tokens)``, 1 on the rows to average over.
    window
        Distance in tokens up to which attention counts as local.

    Returns
    -------
    Shape ``(batch, heads, 3)``, float64.
    """
    wide = weights.double()
    token = torch.arange(wide.shape[-1], device=wide.device)
    apart = (token[:, None] - token[None, :]).abs().double()
    by_row = torch.stack(
        (
            (wide * apart).sum(dim=-1),
            (wide * (apart <= window)).sum(dim=-1),
            torch.special.entr(wide).sum(dim=-1),
        ),
        dim=-1,
    )
    share = (rows / rows.sum(dim=1, keepdim=True)).double()
    return torch.einsum("bhtm,bt->bhm", by_row.expand(len(rows), -1, -1, -1), share)


def uniform_attention(tokens: int, causal: bool) -> Tensor:
    """Equal attention ``(1, 1, tokens, tokens)`` to all tokens, or to all so far."""
    seen = torch.ones(tokens, tokens, dtype=torch.float64)
    seen = seen.tril() if causal else seen
    return (seen / seen.sum(dim=-1, keepdim=True))[None, None]


def toeplitz_share(matrix: Floats, *, causal: bool = False) -> float:
    """Translation invariance: share of the matrix's variance that the means of its diagonals explain.

    ``1 - ||A - Toeplitz(A)||^2 / ||A - mean(A)||^2``; causal matrices by their lower triangle alone, in which
    even the rows of a causal convolution differ until the kernel's length is reached. NaN for a matrix
    without variance.
    """
    i, j = np.tril_indices(len(matrix)) if causal else np.indices(matrix.shape).reshape(2, -1)
    values, diagonal = matrix[i, j], i - j + len(matrix)
    means = np.bincount(diagonal, values) / np.maximum(np.bincount(diagonal), 1)
    variance = float(np.square(values - values.mean()).sum())
    if variance <= 1e-20 * max(float(np.square(values).sum()), 1e-300):
        return float("nan")
    return 1 - float(np.square(values - means[diagonal]).sum()) / variance


SIMILARITY = "similarity"
CEILING = "ceiling"
STUDENT_ARMS = ("transformer", "deit-soft", "deit-hard", "bbm")
MOST_RECORDS = 1000
"""Largest number of records whose attention is measured; drawn at random."""
ATTENTION_BATCH = 16
VERSION = 2
NUMBERS = ("distance", "local_mass", "entropy")
LOCAL_ODDS = 2.0
"""Attention counts as local if a token in the window has at least this multiple of its uniform odds."""


def local_bar(tokens: Ints, window: int, causal: bool) -> Floats:
    """Share of attention within ``window`` from which it counts as local, for records of ``tokens`` tokens.

    It is the mean over rows that each have :data:`LOCAL_ODDS` times the uniform odds. A multiple of the odds
    can be reached at any uniform share; twice a uniform share above one half cannot.
    """
    bars = {}
    for n in np.unique(tokens):
        near = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= window
        uniform = (uniform_attention(int(n), causal)[0, 0].numpy() * near).sum(axis=1)
        bars[n] = float((LOCAL_ODDS * uniform / (1 + (LOCAL_ODDS - 1) * uniform)).mean())
    return np.array([bars[n] for n in tokens])


@dataclass(frozen=True, eq=False)
class Alignments:
    """CKA of one seed's teacher with each student and with the next teacher.

    Attributes
    ----------
    units
        By arm: ``(teacher's units, other's units)``.
    groups
        By arm: the part at the ends of matched groups.
    n_batches, batch_size
        Number and size of the batches that the estimate is from.
    """

    units: dict[str, Floats]
    groups: dict[str, Floats]
    n_batches: int
    batch_size: int


class Similarities:
    """Cached similarities of a study; the training data are opened only to compute missing ones."""

    def __init__(self, study: Study, device: torch.device) -> None:
        self.study, self.device = study, device

    def _opened(self, run: Run, place: str) -> Source:
        """The data as a run sees them, in small batches, because attention is quadratic."""
        fit = replace(run.recipe.fit, batch_size=ATTENTION_BATCH)
        source = open_source(replace(run.recipe, fit=fit), self.study.cohort.cache.folder, self.study.split)
        return source.showing(self.study.external[place]) if place in self.study.external else source

    def _finished(self, seed: int) -> dict[str, Run]:
        """Finished runs of a seed to compare, by arm."""
        names = {arm: f"{arm}/seed-{seed}" for arm in ("teacher", *STUDENT_ARMS)}
        names[CEILING] = f"teacher/seed-{seed + 1}"
        return {arm: self.study.runs[n] for arm, n in names.items() if n in self.study.trained}

    def _kept(
        self,
        kind: str,
        name: str,
        place: str,
        runs: Mapping[str, Run],
        make: Callable[[], Arrays],
        **settings: int,
    ) -> Arrays:
        subject = self.study.subjects(next(iter(runs.values())))[place]
        networks = {arm: self.study.trained[run.name]["network_sha256"] for arm, run in runs.items()}
        key = {"version": VERSION, "networks": networks, "set": subject_sha256(subject), **settings}
        folder = kind if place == TEST else f"{kind}-{place}"
        return kept(self.study.out / SIMILARITY / folder / f"{name}.npz", key, make)

    def alignments(self, seed: int, place: str = TEST) -> Alignments | None:
        """CKA of a seed on the set ``place``; None without its teacher or a network to compare it with."""
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
            # teachers accept ECGs of any length, students only whole patches
            run = next((runs[arm] for arm in STUDENT_ARMS if arm in runs), teacher)
            items = self.study.subjects(run)[place].items
            batches = example_batches(self._opened(run, place), items)
            grids = cka_grids(reference, networks, batches, self.device)
            arrays: Arrays = {f"units|{arm}": grid.matrix for arm, grid in grids.items()}
            for arm, grid in grids.items():
                pairs = boundaries(_matching(runs[arm]), reference.n_units, networks[arm].n_units)
                arrays[f"groups|{arm}"] = grid.at_boundaries(pairs)
            one = next(iter(grids.values()))
            return arrays | {"batches": np.array([one.n_batches, one.batch_size])}

        found = self._kept("cka", f"seed-{seed}", place, runs, make, size=BATCH, most=BATCHES)
        n_batches, size = (int(n) for n in found["batches"])
        return Alignments(_under(found, "units|"), _under(found, "groups|"), n_batches, size)

    def attention(self, arm: str, seed: int, place: str = TEST) -> Arrays | None:
        """Attention of a student on the set ``place``; None if it has not been trained.

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

        def make() -> Arrays:
            network = load_network(self.study.checkpoint(run)).network.to(self.device)
            drawn = self._drawn(self.study.subjects(run)[place].items)
            source, items = self._opened(run, place).of_one_length(drawn)
            found = attention_summary(network, source, items, self.device)
            kinds = (*NUMBERS, *(f"uniform_{name}" for name in NUMBERS), "toeplitz_share", "reached", "items")
            arrays: Arrays = {kind: getattr(found, kind) for kind in kinds}
            return arrays | {
                "averaged": found.averaged.astype(np.float32),
                "window": np.array(found.window),
                "token_seconds": np.array(found.token_seconds),
                "causal": np.array(found.causal),
            }

        return self._kept("attention", run.name, place, {arm: run}, make, most=MOST_RECORDS)

    @staticmethod
    def _drawn(items: Ints) -> Ints:
        chosen = np.random.default_rng(0).permutation(len(items))[:MOST_RECORDS]
        return items[np.sort(chosen)]


def _matching(run: Run) -> Any:
    """The run's recipe with the task's own number of groups."""
    return replace(run.recipe, bbm=replace(run.recipe.bbm, groups=0))


def _under(arrays: Arrays, prefix: str) -> dict[str, Floats]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
