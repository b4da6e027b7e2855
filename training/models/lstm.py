"""The EHR teacher: stacked residual LSTM (Wang, Peng and Zhang 2018)."""

from __future__ import annotations

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
            _initialise(layer)

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
