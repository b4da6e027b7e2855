"""Means over valid elements that come out the same on one process and on several."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def global_mean_scale(count: Tensor) -> Tensor:
    """Factor that turns a local sum into this process's share of the global mean.

    DistributedDataParallel averages gradients over processes; with the sum divided by
    ``global count / processes`` that average is the gradient of the mean over all processes' elements.
    """
    if not _is_distributed():
        return 1.0 / count.clamp(min=1)
    total = count.detach().clone().to(torch.float64)
    dist.all_reduce(total)
    return (dist.get_world_size() / total.clamp(min=1)).to(torch.float32)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``values`` where ``mask`` (broadcast over trailing axes) is 1, accumulated in float32."""
    values = values.float()
    if mask is None:
        # a count known on the host: a tensor of it would be a blocking copy to the device in every term
        return (
            values.mean()
            if not _is_distributed()
            else values.sum() * global_mean_scale(torch.full((), float(values.numel()), device=values.device))
        )
    mask = mask.float()
    while mask.dim() < values.dim():
        mask = mask.unsqueeze(-1)
    count = mask.sum() * (values.numel() / mask.numel())
    return (values * mask).sum() * global_mean_scale(count)
