"""What the blocks of a transformer attend to: averaged attention, and how convolution-like it is in numbers.

A block that works like a convolution attends nearby (small distance, high local mass) and the same way
from everywhere (high Toeplitz share). Distance, local mass and entropy are measured per head and record and
then averaged, because averaging the matrices first would hide attention that depends on the content.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ibt_deploy.types import Floats, Ints
from training.data.augment import SAMPLING_RATE
from training.models import Encoder
from training.models.deit import StayDeiT
from training.models.transformer import Block, EcgTransformer, causal_mask
from training.tasks.base import Source

LOCAL_SECONDS, LOCAL_HOURS = 0.5, 6
WELL_REACHED = 0.1
"""Rows that fewer than this share of the stays reach stay out of the Toeplitz share: too few to average."""


@dataclass(frozen=True, eq=False)
class AttentionSummary:
    """Attention of every block over a set of records.

    Attributes
    ----------
    averaged
        Mean over records and heads, ``(blocks, tokens, tokens)``; rows sum to 1. Of stays the lower triangle;
        row ``t`` is the mean over the stays that reach it, NaN where none does.
    reached
        How many records reach each row, ``(tokens,)``.
    items
        The records, in the order of the next three.
    distance
        ``mean_i sum_j A_ij |i - j|`` in tokens (patches, or hours), mean over heads; ``(records, blocks)``.
    local_mass
        Share of attention within ``window`` tokens, likewise.
    entropy
        Of a row in nats, mean over rows, likewise.
    distance_by_head
        Mean over records, ``(blocks, heads)``.
    uniform_distance, uniform_local_mass, uniform_entropy
        What uniform attention (over the past, for stays) would give for each record, ``(records,)``.
    toeplitz_share
        Of ``averaged``, ``(blocks,)``: :func:`toeplitz_share`. For stays over the causal part of the rows
        that at least a tenth of the stays reach.
    window
        Half a second in whole tokens (5 of the paper's patches, 2 of 200 ms), or 6 hours.
    token_seconds
        Length of a patch, 0 for stays.
    causal
        Whether tokens see the past alone.
    """

    averaged: Floats
    reached: Ints
    items: Ints
    distance: Floats
    local_mass: Floats
    entropy: Floats
    distance_by_head: Floats
    uniform_distance: Floats
    uniform_local_mass: Floats
    uniform_entropy: Floats
    toeplitz_share: Floats
    window: int
    token_seconds: float
    causal: bool

    @property
    def unit(self) -> str:
        """What one token stands for."""
        return "h" if self.causal else f"{self.token_seconds:g} s"

    def numbers(self) -> list[dict[str, float]]:
        """For each block the means over records, and ratios to uniform attention on the same records."""
        return [
            {
                "distance": float(self.distance[:, block].mean()),
                "distance_ratio": float(self.distance[:, block].mean() / self.uniform_distance.mean()),
                "local_mass": float(self.local_mass[:, block].mean()),
                "toeplitz_share": float(self.toeplitz_share[block]),
                "entropy": float(self.entropy[:, block].mean()),
                "entropy_ratio": float(self.entropy[:, block].mean() / self.uniform_entropy.mean()),
            }
            for block in range(self.distance.shape[1])
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data without the matrices and the values of single records."""
        return {
            "n_records": len(self.items),
            "reached": [int(n) for n in self.reached],
            "token": self.unit,
            "window": self.window,
            "uniform": {
                "distance": float(self.uniform_distance.mean()),
                "local_mass": float(self.uniform_local_mass.mean()),
                "entropy": float(self.uniform_entropy.mean()),
            },
            "blocks": self.numbers(),
        }


@torch.no_grad()
def attention_summary(
    network: Encoder, source: Source, items: Ints, device: torch.device | str = "cpu"
) -> AttentionSummary:
    """Attention of a transformer over ``items``, batch by batch; only sums are kept.

    Class and distillation tokens are left out, rows and columns, and the rows are brought back to 1.
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
    well = int((reached >= WELL_REACHED * len(items)).sum())
    return AttentionSummary(
        averaged=averaged,
        reached=reached,
        items=items,
        distance=by_head[..., 0].mean(axis=2),
        local_mass=by_head[..., 1].mean(axis=2),
        entropy=by_head[..., 2].mean(axis=2),
        distance_by_head=by_head[..., 0].mean(axis=0),
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
    """Softmax matrices of every block's attention in one forward pass, masked as the network masks them.

    Of a stay student with queries, those of its hours, which see no query.
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
    """Attention among the tokens that stand for a stretch of the input, rows summing to 1.

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
        How far from a token counts as local.

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
    """``(1, 1, tokens, tokens)``: every token, or every one so far, equally."""
    seen = torch.ones(tokens, tokens, dtype=torch.float64)
    seen = seen.tril() if causal else seen
    return (seen / seen.sum(dim=-1, keepdim=True))[None, None]


def toeplitz_share(matrix: Floats, *, causal: bool = False) -> float:
    """Translation invariance: share of the matrix's variance that the means of its diagonals explain.

    ``1 - ||A - Toeplitz(A)||^2 / ||A - mean(A)||^2``; causal matrices by their lower triangle alone, whose
    rows, even those of a causal convolution, cannot be alike before the kernel's length is reached. NaN for
    a matrix without variance.
    """
    i, j = np.tril_indices(len(matrix)) if causal else np.indices(matrix.shape).reshape(2, -1)
    values, diagonal = matrix[i, j], i - j + len(matrix)
    means = np.bincount(diagonal, values) / np.maximum(np.bincount(diagonal), 1)
    variance = float(np.square(values - values.mean()).sum())
    if variance <= 1e-20 * max(float(np.square(values).sum()), 1e-300):
        return float("nan")
    return 1 - float(np.square(values - means[diagonal]).sum()) / variance
