"""Networks, each an encoder that can be run from any unit to any other, followed by a head.

Every network offers the same interface, so that block-by-block matching need not know which network it holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """A stack of ``n_units`` units whose parts can be run on their own, and a head.

    Features between units are always ``(batch, time, depth)``.
    """

    n_units: int

    @abstractmethod
    def segment(self, z: Tensor, start: int, stop: int) -> Tensor:
        """Run units ``start`` to ``stop - 1``.

        Whatever precedes the first unit (stem, patch embedding, positions) belongs to unit 0, so that ``z``
        is then the network's own input; a final norm belongs to the last unit.
        """

    @abstractmethod
    def head(self, z: Tensor) -> Tensor:
        """Logits from the features of the last unit."""

    def matched_tokens(self, z: Tensor) -> Tensor:
        """The part of ``z`` that is matched and analysed: tokens that represent a stretch of the input."""
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Logits from the network's input."""
        return self.head(self.segment(x, 0, self.n_units))

    def boundary_features(self, x: Tensor, stops: tuple[int, ...]) -> list[Tensor]:
        """Features after each of the ascending ``stops``, in one pass."""
        features, z, start = [], x, 0
        for stop in stops:
            z = self.segment(z, start, stop)
            features.append(z)
            start = stop
        return features
