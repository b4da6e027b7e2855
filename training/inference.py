"""Logits of a network over a part of a data set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from training.models.encoder import Encoder
from training.precision import autocast
from training.sources import Source


@torch.no_grad()
def part_logits(
    network: Encoder,
    source: Source,
    items: npt.NDArray[np.int64],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> npt.NDArray[np.float32]:
    """Logits of ``items`` in their order; the network is left in the mode it was found in."""
    was_training = network.training
    network.eval()
    outputs = []
    for chosen, batch in source.plain(items):
        with autocast(device, dtype):
            logits = network(batch.inputs.to(device))
        outputs.append((chosen, logits.float().cpu().numpy()))
    network.train(was_training)
    return source.gather(items, outputs)
