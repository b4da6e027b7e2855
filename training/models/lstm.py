"""The EHR teacher: stacked residual LSTM (Wang, Peng and Zhang 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.encoder import Encoder


class ResidualLSTM(Encoder):
    """Unidirectional LSTM layers; every layer but the first adds its input to its output.

    Input ``(batch, hours, features)``, output logits ``(batch, hours)``. The layers are separate modules
    because residuals and group boundaries need the sequences between them.
    """

    def __init__(
        self, *, n_features: int = 109, hidden: int = 256, n_layers: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.n_units = n_layers
        self.layers = nn.ModuleList(
            nn.LSTM(n_features if i == 0 else hidden, hidden, batch_first=True) for i in range(n_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, 1)
        for layer in self.layers:
            assert isinstance(layer, nn.LSTM)
            nn.init.xavier_uniform_(layer.weight_ih_l0)
            for gate in layer.weight_hh_l0.chunk(4):
                nn.init.orthogonal_(gate)
            with torch.no_grad():
                layer.bias_ih_l0.zero_()
                layer.bias_hh_l0.zero_()
                layer.bias_ih_l0[hidden : 2 * hidden] = 1.0

    def segment(self, z: Tensor, start: int, stop: int) -> Tensor:
        """See :meth:`Encoder.segment`."""
        for i in range(start, stop):
            y, _ = self.layers[i](z)
            y = self.dropout(y)
            z = y if i == 0 else z + y
        return z

    def head(self, z: Tensor) -> Tensor:
        """One logit per hour."""
        logits: Tensor = self.classifier(self.dropout(z)).squeeze(-1)
        return logits
