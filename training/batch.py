"""What one training step sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One batch of either task.

    Attributes
    ----------
    inputs
        ECG ``(batch, leads, samples)`` or rows ``(batch, hours, features)``.
    labels
        ``(batch, classes)`` or ``(batch, hours)``, float.
    known
        Same shape as ``labels``: 0 where the label is unknown or the row is padding.
    rows
        For stays ``(batch, hours)``, 1 on rows that exist; None for ECG.
    weights
        Weight of each label in the supervised loss, same shape as ``labels``; None for 1 everywhere.
    """

    inputs: Tensor
    labels: Tensor
    known: Tensor
    rows: Tensor | None
    weights: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""

        def moved(t: Tensor) -> Tensor:
            return t.to(device, non_blocking=True)

        return Batch(
            moved(self.inputs),
            moved(self.labels),
            moved(self.known),
            None if self.rows is None else moved(self.rows),
            None if self.weights is None else moved(self.weights),
        )
