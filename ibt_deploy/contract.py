"""The parts of a bundle's contract that scoring uses: tensors, classes, calibration, operating points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibt_deploy.classes import CLASSES
from ibt_deploy.types import AnyFloats, Floats


@dataclass(frozen=True)
class TensorSpec:
    """One input or output tensor of the graph: name, dtype, shape, unit and the meaning of every axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    unit: str
    axes: tuple[str, ...]

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> TensorSpec:
        """Read one entry of ``inputs`` or ``outputs``; raises ValueError or KeyError."""
        spec = cls(
            str(entry["name"]),
            str(entry["dtype"]),
            tuple(entry["shape"]),
            str(entry["unit"]),
            tuple(entry["axes"]),
        )
        if len(spec.shape) != len(spec.axes):
            raise ValueError(
                f"tensor {spec.name!r} has {len(spec.shape)} axes of which {len(spec.axes)} are named"
            )
        return spec


@dataclass(frozen=True)
class BundleClass:
    """One output class: its codes, and whether training had enough positives to say anything about it."""

    code: str
    abbreviation: str
    name: str
    codes: tuple[str, ...]
    evaluable: bool
    positives: dict[str, int]

    @classmethod
    def all_from(cls, entries: Sequence[dict[str, Any]]) -> tuple[BundleClass, ...]:
        """The classes of a contract; raises ValueError unless they are the 26 in official order."""
        classes = tuple(
            cls(
                str(entry["code"]),
                str(entry["abbreviation"]),
                str(entry["name"]),
                tuple(str(code) for code in entry["codes"]),
                _boolean(entry["evaluable"], f"'evaluable' of class {entry['code']}"),
                {str(part): int(n) for part, n in entry["positives"].items()},
            )
            for entry in entries
        )
        if [c.code for c in classes] != [c.code for c in CLASSES]:
            raise ValueError("'classes' are not the 26 scored classes in the official order")
        if not any(c.evaluable for c in classes):
            raise ValueError("'classes' holds no evaluable class")
        return classes


def sigmoid(z: AnyFloats) -> Floats:
    """``1 / (1 + exp(-z))`` in float64, for any shape."""
    # exp of minus the magnitude never overflows
    e = np.exp(-np.abs(z.astype(np.float64)))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Platt scaling: ``probability = sigmoid(slope * logit + intercept)``, per output.

    Platt, in: Advances in Large Margin Classifiers, 1999. ``slope`` and ``intercept`` have shape
    ``(outputs,)``; slopes are positive, so that the ranking within a class is that of the logits.
    """

    slope: Floats
    intercept: Floats

    @classmethod
    def from_dict(cls, entry: dict[str, Any], n_outputs: int) -> Calibration:
        """Read ``calibration``; raises ValueError or KeyError."""
        if entry["kind"] != "platt":
            raise ValueError(f"calibration of kind {entry['kind']!r} is not implemented")
        slope = _vector(entry["slope"], n_outputs, "calibration slope")
        intercept = _vector(entry["intercept"], n_outputs, "calibration intercept")
        if not (slope > 0).all():
            raise ValueError("a calibration slope is not positive")
        return cls(slope, intercept)

    def probability(self, logits: AnyFloats) -> Floats:
        """Calibrated probabilities of logits whose last axis is the outputs (or which have one output)."""
        return sigmoid(self.slope * logits.astype(np.float64) + self.intercept)


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A named set of thresholds on calibrated probabilities, shape ``(outputs,)``.

    At an ``exclusive`` one findings that exclude each other are not put out together, and there may be no
    finding at all: see :func:`ibt_deploy.decisions.decided`.
    """

    name: str
    thresholds: Floats
    description: str
    exclusive: bool = False

    @classmethod
    def from_dict(cls, name: str, entry: dict[str, Any], n_outputs: int) -> OperatingPoint:
        """Read one operating point; raises ValueError or KeyError."""
        thresholds = _vector(entry["thresholds"], n_outputs, f"thresholds of '{name}'")
        if not ((thresholds > 0) & (thresholds <= 1)).all():
            raise ValueError(f"a threshold of operating point '{name}' is not in (0, 1]")
        exclusive = _boolean(entry.get("exclusive", False), f"'exclusive' of operating point '{name}'")
        if exclusive and n_outputs != len(CLASSES):
            raise ValueError(f"operating point '{name}' is exclusive, but the outputs are not the 26 classes")
        return cls(name, thresholds, str(entry["description"]), exclusive)


def _vector(values: Any, length: int, what: str) -> Floats:
    if not isinstance(values, list) or any(
        isinstance(v, bool) or not isinstance(v, int | float) for v in values
    ):
        raise ValueError(f"{what}: not a list of numbers")
    vector = np.asarray(values, dtype=np.float64)
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise ValueError(f"{what}: {len(values)} numbers where {length} finite ones are expected")
    return vector


def _boolean(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{what} is not true or false")
    return value
