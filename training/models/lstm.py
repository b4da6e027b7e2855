"""The EHR teacher: stacked residual LSTM (Wang, Peng and Zhang 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models import Encoder


class ResidualLSTM(Encoder):
    """Unidirectional LSTM layers, each of which adds its input to its output.

    Input ``(batch, hours, features)``, output logits ``(batch, hours)``. The layers are separate modules
    because residuals and group boundaries need the sequences between them. They compute in float32 even
    under autocast: under it cuDNN's LSTM runs in fp16, where most gradients of a mean over thousands of rows
    round to zero.

    Parameters
    ----------
    projection
        A linear map of the features to ``hidden`` gives the first layer a residual too, as in Wang et al.,
        whose input has the width of the layers. Without it the first layer has none.
    """

    def __init__(
        self,
        *,
        n_features: int = 109,
        hidden: int = 256,
        n_layers: int = 3,
        dropout: float = 0.0,
        projection: bool = True,
    ) -> None:
        super().__init__()
        self.n_units = n_layers
        self.projection = nn.Linear(n_features, hidden) if projection else None
        first = hidden if projection else n_features
        self.layers = nn.ModuleList(
            nn.LSTM(first if i == 0 else hidden, hidden, batch_first=True) for i in range(n_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, 1)
        if self.projection is not None:
            nn.init.xavier_uniform_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)
        for layer in self.layers:
            _initialise(layer)

    def segment(self, z: Tensor, start: int, stop: int) -> Tensor:
        """See :meth:`Encoder.segment`; the projection belongs to unit 0."""
        if start == 0 and self.projection is not None:
            z = self.projection(z)
        for i in range(start, stop):
            with torch.autocast(z.device.type, enabled=False):
                z = z.float()
                y, _ = self.layers[i](z)
            y = self.dropout(y)
            z = y if i == 0 and self.projection is None else z + y
        return z

    def head(self, z: Tensor) -> Tensor:
        """One logit per hour."""
        logits: Tensor = self.classifier(self.dropout(z)).squeeze(-1)
        return logits


def _initialise(layer: nn.Module) -> None:
    """Xavier input weights, orthogonal recurrent ones gate by gate, forget-gate bias 1."""
    for name, parameter in layer.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        elif name.startswith("weight_hh"):
            for gate in parameter.data.chunk(4):
                nn.init.orthogonal_(gate)
        else:
            nn.init.zeros_(parameter)
            if name.startswith("bias_ih"):
                hidden = len(parameter) // 4
                parameter.data[hidden : 2 * hidden] = 1.0
