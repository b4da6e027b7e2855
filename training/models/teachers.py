"""The teachers: a residual network for ECGs (Hannun et al. 2019), an LSTM for stays (Wang et al. 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models import Encoder

FEWEST_IN_BF16 = 16
"""Fewest input channels of a convolution that may compute in bf16."""


class SameConv(nn.Conv2d):
    """Convolution over time whose output has ``ceil(length / stride)`` steps, padded as "same" in TensorFlow.

    Signals are images of height 1 in the channels-last memory format: on a CPU with AVX2 the backward pass of
    the full-size teacher takes half the time it takes as a one-dimensional convolution.

    On a CPU, a convolution with fewer than 16 input channels computes in float32 even under autocast. On CPUs
    with AMX, the bf16 kernel of oneDNN in PyTorch 2.13 returns wrong numbers for 4, 8 or 12 input channels
    and kernels of 8 or 16 samples.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(c_in, c_out, (1, kernel), (1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, 1, length)`` to ``(batch, filters, 1, ceil(length / stride))``."""
        length, kernel, stride = x.shape[-1], self.kernel_size[1], self.stride[1]
        steps = -(-length // stride)
        total = max((steps - 1) * stride + kernel - length, 0)
        padded = F.pad(x, (total // 2, total - total // 2))
        if self.in_channels >= FEWEST_IN_BF16 or not (x.is_cpu and torch.is_autocast_enabled("cpu")):
            return super().forward(padded)
        with torch.autocast("cpu", enabled=False):
            y = super().forward(padded.float())
        return y.to(torch.get_autocast_dtype("cpu"))


class ResidualBlock(nn.Module):
    """Pre-activation block of two convolutions; every second one halves time.

    The shortcut is a max-pool in ceil mode (the convolution rounds up, so must the pool), widened by zero
    channels where the number of filters doubles.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int, dropout: float, *, leading_norm: bool
    ) -> None:
        super().__init__()
        self.stride, self.widen = stride, c_out - c_in
        self.norm1 = nn.BatchNorm2d(c_in) if leading_norm else None
        self.conv1 = SameConv(c_in, c_out, kernel, stride)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = SameConv(c_out, c_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, c_in, 1, length)`` to ``(batch, c_out, 1, ceil(length / stride))``."""
        shortcut: Tensor = x if self.stride == 1 else F.max_pool2d(x, (1, self.stride), ceil_mode=True)
        if self.widen:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.widen))
        y = x if self.norm1 is None else F.relu(self.norm1(x))
        y = self.conv2(self.dropout(F.relu(self.norm2(self.conv1(y)))))
        summed: Tensor = shortcut + y
        return summed


class HannunResNet(Encoder):
    """Residual blocks in groups of four, filters doubling with each group.

    Input ``(batch, leads, samples)`` of any length, output logits ``(batch, classes)``. Hannun's softmax at
    every 256th sample becomes a record-level multi-label output by averaging over time.

    Parameters
    ----------
    n_blocks
        16 is Hannun's network; 8 is the other reading of the paper.
    base_filters, kernel
        Filters of the first group, and length of every convolution.
    pad_to
        Zero-pad the input symmetrically to this many samples (2048 gives powers of two); 0 leaves it alone.
    """

    def __init__(
        self,
        *,
        n_leads: int = 12,
        n_classes: int = 26,
        n_blocks: int = 16,
        base_filters: int = 32,
        kernel: int = 16,
        dropout: float = 0.2,
        pad_to: int = 0,
    ) -> None:
        super().__init__()
        self.n_units, self.pad_to = n_blocks, pad_to
        self.stem = nn.Sequential(
            SameConv(n_leads, base_filters, kernel), nn.BatchNorm2d(base_filters), nn.ReLU()
        )
        width = [base_filters] + [base_filters * 2 ** (i // 4) for i in range(n_blocks)]
        self.blocks = nn.ModuleList(
            ResidualBlock(width[i], width[i + 1], kernel, 1 + i % 2, dropout, leading_norm=i > 0)
            for i in range(n_blocks)
        )
        self.norm = nn.BatchNorm2d(width[-1])
        self.classifier = nn.Linear(width[-1], n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def segment(self, z: Tensor, start: int, stop: int) -> Tensor:
        """See :meth:`Encoder.segment`; the stem belongs to unit 0, the final norm and ReLU to the last."""
        if start == 0:
            missing = self.pad_to - z.shape[-1]
            if missing > 0:
                z = F.pad(z, (missing // 2, missing - missing // 2))
        else:
            z = z.transpose(1, 2)
        z = z.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        if start == 0:
            z = self.stem(z)
        for block in self.blocks[start:stop]:
            z = block(z)
        if stop == self.n_units:
            z = F.relu(self.norm(z))
        return z.squeeze(2).transpose(1, 2)

    def head(self, z: Tensor) -> Tensor:
        """Mean over time, then a linear layer."""
        logits: Tensor = self.classifier(z.mean(dim=1))
        return logits


def calibrate_batch_norm(network: nn.Module, batches: list[Tensor]) -> None:
    """Set batch-norm statistics from data, weights untouched (for the untrained-teacher control)."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    was_training = network.training
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)
    network.train(was_training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


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
