"""The students: pre-norm transformers (Vaswani et al. 2017), plain and DeiT (Touvron et al. 2021).

DeiT students have distillation tokens with their own head, adapted to multi-label and causal outputs. In
training :meth:`both_logits` gives both heads' logits; at inference they are averaged, as in the authors'
repository.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models import Encoder

KeyValue = tuple[Tensor, Tensor]

MASKED = -1e9
"""Added to the scores of masked pairs; finite, so that no row can become NaN."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """``softmax(q k' / sqrt(width) + mask) v``, each ``(batch, heads, time, width)``.

    On CUDA the fused kernel computes it; on CPUs the plain formula is faster for a hundred tokens in bf16.
    """
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))
    scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1).to(v.dtype) @ v


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"a width of {dim} cannot be shared among {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def project(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``(batch, heads, time, dim / heads)``."""
        batch, time, dim = z.shape
        qkv = self.qkv(z).view(batch, time, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]

    def merge(self, y: Tensor) -> Tensor:
        """Join the heads ``(batch, heads, time, width)`` and project to ``(batch, time, dim)``."""
        batch, heads, time, width = y.shape
        merged: Tensor = self.dropout(self.out(y.transpose(1, 2).reshape(batch, time, heads * width)))
        return merged

    def forward(self, z: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within ``z``; ``mask`` is added to the scores."""
        return self.merge(attend(*self.project(z), mask))

    def weights(self, z: Tensor, mask: Tensor | None) -> Tensor:
        """The softmax matrix ``(batch, heads, time, time)`` that :meth:`forward` uses, for analysis."""
        q, k, _ = self.project(z)
        scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
        return (scores if mask is None else scores + mask).softmax(dim=-1)


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Additive mask ``(queries, keys)``: the last query sees every key, each earlier one a key fewer."""
    query = torch.arange(queries, device=device).unsqueeze(1) + (keys - queries)
    key = torch.arange(keys, device=device).unsqueeze(0)
    return (key > query).to(torch.float32) * MASKED


class Block(nn.Module):
    """``z = z + MHSA(LN(z)); z = z + MLP(LN(z))`` with exact GELU."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        hidden = round(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(batch, time, dim)`` to the same shape."""
        z = z + self.attention(self.norm1(z), mask)
        out: Tensor = z + self.mlp(self.norm2(z))
        return out

    def forward_cached(self, z: Tensor, past: KeyValue, mask: Tensor) -> tuple[Tensor, KeyValue]:
        """As :meth:`forward`, after ``past`` keys and values ``(batch, heads, past, width)``."""
        q, k, v = self.attention.project(self.norm1(z))
        k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        z = z + self.attention.merge(attend(q, k, v, mask))
        return z + self.mlp(self.norm2(z)), (k, v)


def initialise(network: nn.Module) -> None:
    """Truncated normal 0.02 for every linear weight, zero for its bias, as in ViT."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def patchify(signal: Tensor, patch: int) -> Tensor:
    """``(batch, leads, samples)`` to ``(batch, samples / patch, leads * patch)``, lead-major.

    Element ``lead * patch + j`` of token ``k`` is sample ``patch * k + j`` of that lead.
    """
    batch, leads, samples = signal.shape
    tokens = signal.view(batch, leads, samples // patch, patch).transpose(1, 2)
    return tokens.reshape(batch, samples // patch, leads * patch)


class EcgTransformer(Encoder):
    """Vision transformer on patches of a 12-lead ECG, 100 ms in the paper.

    Input ``(batch, leads, samples)``, output logits ``(batch, classes)``. Shorter signals of whole patches
    are taken as they are; :meth:`masked` takes several lengths in one batch.

    Parameters
    ----------
    samples, patch
        Samples of the longest signal, and of a patch.
    readout
        ``"mean"`` averages the patch tokens; ``"cls"`` reads a class token (sensitivity check).
    """

    def __init__(
        self,
        *,
        n_leads: int = 12,
        samples: int = 2000,
        patch: int = 20,
        n_classes: int = 26,
        dim: int = 256,
        depth: int = 8,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        readout: str = "mean",
    ) -> None:
        super().__init__()
        if samples % patch:
            raise ValueError(f"{samples} samples do not divide into patches of {patch}")
        self.n_units, self.patch, self.dim = depth, patch, dim
        self.n_tokens = samples // patch
        self.n_extra = 1 if readout == "cls" else 0
        self.embedding = nn.Linear(n_leads * patch, dim)
        self.position = nn.Parameter(torch.empty(1, self.n_tokens, dim))
        self.class_token = nn.Parameter(torch.empty(1, 1, dim)) if readout == "cls" else None
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.classifier = nn.Linear(dim, n_classes)
        initialise(self)
        nn.init.trunc_normal_(self.position, std=0.02)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)

    def embed(self, signal: Tensor) -> Tensor:
        """Tokens with positions, the class token (if any) directly before the patch tokens."""
        patches = patchify(signal, self.patch)
        z: Tensor = self.embedding(patches) + self.position[:, : patches.shape[1]]
        if self.class_token is not None:
            z = torch.cat((self.class_token.expand(z.shape[0], -1, -1), z), dim=1)
        return z

    def segment(self, z: Tensor, start: int, stop: int) -> Tensor:
        """See :meth:`Encoder.segment`; the embedding belongs to unit 0, the final norm to the last."""
        if start == 0:
            z = self.embed(z)
        for block in self.blocks[start:stop]:
            z = block(z)
        normed: Tensor = self.norm(z) if stop == self.n_units else z
        return normed

    def pooled(self, z: Tensor, valid: Tensor | None = None) -> Tensor:
        """What the classifier reads, ``(batch, dim)``: mean of the valid patches, or the class token."""
        if self.class_token is not None:
            return z[:, self.n_extra - 1]
        tokens = self.matched_tokens(z)
        if valid is None:
            return tokens.mean(dim=1)
        weights = valid.unsqueeze(-1)
        return (tokens * weights).sum(dim=1) / weights.sum(dim=1)

    def head(self, z: Tensor, valid: Tensor | None = None) -> Tensor:
        """Linear layer on :meth:`pooled`."""
        logits: Tensor = self.classifier(self.pooled(z, valid))
        return logits

    def masked(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Score signals of which only some patches were recorded.

        Parameters
        ----------
        signal
            ``(batch, leads, samples)``. A patch that holds a NaN is absent: nothing attends to it, and it
            does not enter the mean. Every signal must have at least one complete patch.

        Returns
        -------
        logits ``(batch, classes)``, and what the classifier reads, ``(batch, dim)``. Both equal those of the
        signal cut to its patches.
        """
        z, mask, valid = self.embed_recorded(signal)
        for block in self.blocks:
            z = block(z, mask)
        return self.read(self.norm(z), valid)

    def embed_recorded(self, signal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the blocks of :meth:`masked` start from.

        Returns
        -------
        tokens ``(batch, time, dim)``; the mask ``(batch, 1, 1, time)`` that is added to the scores of
        attention; 1 for every patch that was recorded and 0 for the others, ``(batch, patches)``.
        """
        absent = torch.isnan(signal)
        in_patch = absent.view(*absent.shape[:2], -1, self.patch)
        valid = 1 - in_patch.to(signal.dtype).amax(dim=(1, 3))
        z = self.embed(torch.where(absent, 0.0, signal))
        extra = torch.ones_like(valid[:, :1]).expand(-1, self.n_extra)
        mask = ((1 - torch.cat((extra, valid), dim=1)) * MASKED)[:, None, None, :]
        return z, mask, valid

    def read(self, z: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and what the classifier reads, from the final features ``z`` and the recorded patches."""
        return self.head(z, valid), self.pooled(z, valid)

    def matched_tokens(self, z: Tensor) -> Tensor:
        """``z`` without class or distillation tokens."""
        return z[:, self.n_extra :]


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """Fixed positions ``(length, dim)``: sine in even, cosine in odd columns (Vaswani et al. 2017, 3.5)."""
    position = torch.arange(length, dtype=torch.float64).unsqueeze(1)
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(10000.0) / dim))
    table = torch.zeros(length, dim, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)
    return table.to(torch.float32)


class StayTransformer(Encoder):
    """Causal transformer whose tokens are the hourly rows of a stay.

    Input ``(batch, hours, features)``, output logits ``(batch, hours)``. Batches are padded on the right:
    padded rows lie in every valid row's future, so no padding mask is needed.

    Parameters
    ----------
    embedding_scale
        Factor applied to embedded rows before positions are added (Vaswani et al. multiply by the root of the
        width). Without it rows start at an rms of 0.20 under positions of 0.71.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        n_features: int = 109,
        dim: int = 256,
        depth: int = 3,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        max_hours: int = 336,
        embedding_scale: float = 4.0,
    ) -> None:
        super().__init__()
        self.embedding_scale = embedding_scale
        self.n_units, self.dim, self.n_heads, self.max_hours = depth, dim, heads, max_hours
        self.embedding = nn.Linear(n_features, dim)
        self.register_buffer("positions", sinusoidal_positions(max_hours, dim), persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.classifier = nn.Linear(dim, 1)
        initialise(self)

    def embed(self, rows: Tensor) -> Tensor:
        """Tokens ``(batch, hours, dim)``, positions added."""
        embedded: Tensor = self.embedding_scale * self.embedding(rows) + self.positions[: rows.shape[1]]
        return embedded

    def segment(self, z: Tensor, start: int, stop: int) -> Tensor:
        """See :meth:`Encoder.segment`; the embedding belongs to unit 0, the final norm to the last."""
        if start == 0:
            z = self.embed(z)
        mask = causal_mask(z.shape[1], z.shape[1], z.device)
        for block in self.blocks[start:stop]:
            z = block(z, mask)
        normed: Tensor = self.norm(z) if stop == self.n_units else z
        return normed

    def head(self, z: Tensor) -> Tensor:
        """One logit per hour."""
        logits: Tensor = self.classifier(z).squeeze(-1)
        return logits

    def forward_cached(
        self, rows: Tensor, position: Tensor, past_k: Tensor, past_v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Score new rows after ``past`` ones whose keys and values are given.

        Parameters
        ----------
        rows
            ``(batch, hours, features)``.
        position
            Row index of each, int64 ``(batch, hours)``, counted from the first row of the stay.
        past_k, past_v
            ``(depth, batch, heads, past, dim / heads)``; ``past`` may be 0.

        Returns
        -------
        logits ``(batch, hours)``, and keys and values with the new rows appended.
        """
        z, mask = self.embed_at(rows, position, past_k.shape[3])
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            z, (k, v) = block.forward_cached(z, (past_k[i], past_v[i]), mask)
            keys.append(k)
            values.append(v)
        return self.head(self.norm(z)), torch.stack(keys), torch.stack(values)

    def embed_at(self, rows: Tensor, position: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """Tokens ``(batch, hours, dim)`` of :meth:`forward_cached`; its mask ``(hours, past + hours)``."""
        z = self.embedding_scale * self.embedding(rows) + self.positions[position]
        return z, causal_mask(rows.shape[1], past + rows.shape[1], rows.device)


class EcgDeiT(EcgTransformer):
    """ECG student with a distillation token, which has its own position, in front of all others."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_extra += 1
        self.distillation_token = nn.Parameter(torch.empty(1, 1, self.dim))
        self.distillation_position = nn.Parameter(torch.empty(1, 1, self.dim))
        self.distillation_head = nn.Linear(self.dim, self.classifier.out_features)
        for parameter in (self.distillation_token, self.distillation_position, self.distillation_head.weight):
            nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.zeros_(self.distillation_head.bias)

    def embed(self, signal: Tensor) -> Tensor:
        """Token 0 is the distillation token."""
        z = super().embed(signal)
        token = (self.distillation_token + self.distillation_position).expand(z.shape[0], -1, -1)
        return torch.cat((token, z), dim=1)

    def both_logits(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the class head and of the distillation head, each ``(batch, classes)``."""
        z = self.segment(signal, 0, self.n_units)
        return super().head(z), self.distillation_head(z[:, 0])

    def head(self, z: Tensor, valid: Tensor | None = None) -> Tensor:
        """Average of both heads' logits."""
        averaged: Tensor = (super().head(z, valid) + self.distillation_head(z[:, 0])) / 2
        return averaged


class EcgMasked(EcgTransformer):
    """ECG student that reconstructs hidden patches; its head stays untrained."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = self.embedding.in_features
        self.decoder = nn.Linear(self.dim, width)
        nn.init.trunc_normal_(self.decoder.weight, std=0.02)
        nn.init.zeros_(self.decoder.bias)

    def reconstructed(self, signal: Tensor) -> Tensor:
        """Patches ``(batch, time, leads * patch)``, in the order of :func:`patchify`."""
        patches: Tensor = self.decoder(self.matched_tokens(self.segment(signal, 0, self.n_units)))
        return patches


class StayDeiT(StayTransformer):
    """Stay student with one distillation query per hour.

    The sequence is ``[rows 1..T; queries 1..T]``. Row ``t`` attends rows up to ``t``; query ``t`` attends
    rows up to ``t`` and itself; rows never attend queries. A single distillation token could not serve every
    hour: in front it would see nothing, behind it would see the future.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.distillation_query = nn.Parameter(torch.empty(1, 1, self.dim))
        self.distillation_head = nn.Linear(self.dim, 1)
        nn.init.trunc_normal_(self.distillation_query, std=0.02)
        nn.init.trunc_normal_(self.distillation_head.weight, std=0.02)
        nn.init.zeros_(self.distillation_head.bias)

    def embed(self, rows: Tensor) -> Tensor:
        """Tokens ``(batch, 2 * hours, dim)``."""
        hours = rows.shape[1]
        queries = self.distillation_query + self.positions[:hours]
        return torch.cat((super().embed(rows), queries.expand(rows.shape[0], -1, -1)), dim=1)

    def segment(self, z: Tensor, start: int, stop: int) -> Tensor:
        """See :meth:`Encoder.segment`; from unit 1 on ``z`` holds rows and queries."""
        if start == 0:
            z = self.embed(z)
        for block in self.blocks[start:stop]:
            assert isinstance(block, Block)
            z = z + attend_rows_and_queries(block.attention, block.norm1(z))
            z = z + block.mlp(block.norm2(z))
        normed: Tensor = self.norm(z) if stop == self.n_units else z
        return normed

    def both_logits(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the class head and of the distillation head, each ``(batch, hours)``."""
        z_rows, z_queries = self.segment(rows, 0, self.n_units).chunk(2, dim=1)
        return super().head(z_rows), self.distillation_head(z_queries).squeeze(-1)

    def head(self, z: Tensor) -> Tensor:
        """Average of both heads' logits."""
        # sliced, because the ONNX exporter cannot fold a chunk of unknown length
        hours = z.shape[1] // 2
        averaged: Tensor = (super().head(z[:, :hours]) + self.distillation_head(z[:, hours:]).squeeze(-1)) / 2
        return averaged

    def forward_cached(
        self, rows: Tensor, position: Tensor, past_k: Tensor, past_v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`StayTransformer.forward_cached`; rows alone are cached: no later token sees a query."""
        hours, where = rows.shape[1], self.positions[position]
        z = self.embedding_scale * self.embedding(rows) + where
        queries = self.distillation_query + where
        causal = causal_mask(hours, past_k.shape[3] + hours, rows.device)
        others = (1 - torch.eye(hours, device=rows.device)) * MASKED
        seen_by_queries = torch.cat((causal, others), dim=1)
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            z, (k, v) = block.forward_cached(z, (past_k[i], past_v[i]), causal)
            queries, _ = block.forward_cached(queries, (k, v), seen_by_queries)
            keys.append(k)
            values.append(v)
        logits = self.head(self.norm(torch.cat((z, queries), dim=1)))
        return logits, torch.stack(keys), torch.stack(values)


class StayTwoHeads(StayTransformer):
    """Cheaper DeiT for stays: a second linear head on each row token, no queries."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.distillation_head = nn.Linear(self.dim, 1)
        nn.init.trunc_normal_(self.distillation_head.weight, std=0.02)
        nn.init.zeros_(self.distillation_head.bias)

    def both_logits(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the class head and of the distillation head, each ``(batch, hours)``."""
        z = self.segment(rows, 0, self.n_units)
        return super().head(z), self.distillation_head(z).squeeze(-1)

    def head(self, z: Tensor) -> Tensor:
        """Average of both heads' logits."""
        averaged: Tensor = (super().head(z) + self.distillation_head(z).squeeze(-1)) / 2
        return averaged


def attend_rows_and_queries(attention: Attention, z: Tensor) -> Tensor:
    """Attention within ``z``, rows followed by as many queries, ``(batch, 2 * hours, dim)``.

    A row sees the rows up to its own, a query the rows up to its hour and itself. The half of the scores that
    such a mask would blank out is not computed: on stays of 300 hours training takes half the time, on stays
    of 40 hours the same.
    """
    hours = z.shape[1] // 2
    q, k, v = attention.project(z)
    causal = causal_mask(hours, hours, z.device)
    of_rows = attend(q[:, :, :hours], k[:, :, :hours], v[:, :, :hours], causal)
    asking, own = q[:, :, hours:], k[:, :, hours:]
    past = (asking @ k[:, :, :hours].transpose(-1, -2)).float() / math.sqrt(q.shape[-1]) + causal
    itself = (asking * own).sum(dim=-1, keepdim=True).float() / math.sqrt(q.shape[-1])
    seen = torch.cat((past, itself), dim=-1).softmax(dim=-1).to(v.dtype)
    of_queries = seen[..., :hours] @ v[:, :, :hours] + seen[..., hours:] * v[:, :, hours:]
    return attention.merge(torch.cat((of_rows, of_queries), dim=2))
