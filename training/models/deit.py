"""DeiT students: distillation tokens with a head of their own (Touvron et al. 2021), multi-label and causal.

In training :meth:`both_logits` gives both heads' logits; at inference they are averaged, as in the authors'
repository.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from training.models.transformer import (
    MASKED,
    Attention,
    Block,
    EcgTransformer,
    StayTransformer,
    attend,
    causal_mask,
)


class EcgDeiT(EcgTransformer):
    """ECG student with a distillation token, with its own position, in front of all others."""

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
    """The cheaper fallback: a second linear head on each row token, no queries."""

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
    such a mask would empty is not computed: on stays of 300 hours training takes half the time, on stays of
    40 hours as long.
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
