"""How far the features of an input lie from those of the training set."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ibt_deploy.errors import BundleError
from ibt_deploy.types import AnyFloats

FAMILIARITY = "familiarity.npz"
UNFAMILIAR = 0.995
"""Share of the training set beyond which an input counts as unlike it."""
ARRAYS = ("mean", "components", "axes", "residual", "quantiles")
"""Arrays in the file."""


@dataclass(frozen=True, eq=False)
class Familiarity:
    """A Gaussian on the features of the training set (Lee et al., NeurIPS 2018, with one class).

    The leading principal components are whitened one by one; the residual is divided by its root mean
    square.

    Attributes
    ----------
    mean
        Shape ``(dim,)``.
    components
        Principal axes divided by their standard deviation, shape ``(dim, k)``.
    axes
        The same axes with unit length, shape ``(dim, k)``.
    residual
        Root mean square of what the axes leave, per training input.
    quantiles
        Distances of training inputs from a Gaussian fitted without them, times ``stretch``; ascending,
        shape ``(n,)``.
    stretch
        Factor by which inputs that the network has never seen lie farther away.
    """

    mean: AnyFloats
    components: AnyFloats
    axes: AnyFloats
    residual: AnyFloats
    quantiles: AnyFloats
    stretch: float = 1.0

    @classmethod
    def fitted(
        cls,
        features: AnyFloats,
        unseen: AnyFloats | None = None,
        *,
        stretch: float = 1.0,
        k: int = 120,
        folds: int = 5,
    ) -> Familiarity:
        """Fit on the features of training inputs, ``(n, dim)``.

        The distances for the quantiles are cross-fitted over ``folds`` folds. The network has been trained on
        these inputs, so they lie nearer to the centre than unseen ones. The quantiles are thus stretched,
        never shrunk: until their median is that of ``unseen`` features ``(m, dim)``, or by ``stretch``.
        """
        fold = np.arange(len(features)) % folds
        distances = np.concatenate(
            [cls._gaussian(features[fold != f], k).distance(features[fold == f]) for f in range(folds)]
        )
        whole = cls._gaussian(features, k)
        if unseen is not None:
            stretch = max(float(np.median(whole.distance(unseen)) / np.median(distances)), 1.0)
        return replace(whole, quantiles=stretch * np.sort(distances), stretch=stretch)

    @classmethod
    def _gaussian(cls, features: AnyFloats, k: int) -> Familiarity:
        mean = features.mean(axis=0)
        centred = features - mean
        _, singular, axes = np.linalg.svd(centred, full_matrices=False)
        kept = min(k, len(singular) - 1)
        deviation = singular / np.sqrt(len(features) - 1)
        residual = np.sqrt(np.square(deviation[kept:]).sum())
        axes = axes[:kept].T
        return cls(mean, axes / deviation[:kept], axes, np.asarray(residual), np.zeros(1))

    def distance(self, features: AnyFloats) -> AnyFloats:
        """Mahalanobis distances of features ``(n, dim)``, shape ``(n,)``."""
        centred = features - self.mean
        along = centred @ self.axes
        left = np.maximum(np.square(centred).sum(axis=1) - np.square(along).sum(axis=1), 0)
        whitened = np.square(centred @ self.components).sum(axis=1)
        found: AnyFloats = np.sqrt(whitened + left / np.square(self.residual))
        return found

    def share_nearer(self, features: AnyFloats) -> AnyFloats:
        """Share of the training set nearer to its centre than features ``(n, dim)``, shape ``(n,)``."""
        return np.searchsorted(self.quantiles, self.distance(features)) / len(self.quantiles)

    def save(self, path: Path) -> None:
        """Write :data:`FAMILIARITY`."""
        np.savez_compressed(
            path,
            allow_pickle=False,
            **{name: np.asarray(getattr(self, name), np.float32) for name in ARRAYS},
        )

    @classmethod
    def read(cls, path: Path) -> Familiarity:
        """Read what :meth:`save` wrote; raises BundleError."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                found = cls(*(archive[name].astype(np.float64) for name in ARRAYS))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path}: not a description of familiar features ({error})") from error
        dim, k = found.components.shape if found.components.ndim == 2 else (-1, -1)
        if found.mean.shape != (dim,) or found.axes.shape != (dim, k) or not len(found.quantiles):
            raise BundleError(f"{path}: arrays of shapes that do not belong together")
        return found
