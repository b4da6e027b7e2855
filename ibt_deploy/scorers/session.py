"""An open graph: the session, its name in answers, and a check that it is what the contract says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ibt_deploy.bundle import Bundle
from ibt_deploy.device import Device, open_session, runtime_errors
from ibt_deploy.errors import BundleError, DeviceError
from ibt_deploy.predictions import Model
from ibt_deploy.types import Array, Float32s

if TYPE_CHECKING:
    import onnxruntime

_TENSORS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "arrhythmia": ({"signal": 3}, {"logits": 2}),
    "sepsis": (
        {"rows": 3, "position": 2, "past_k": 5, "past_v": 5},
        {"logit": 2, "present_k": 5, "present_v": 5},
    ),
}


_OPTIONAL_OUTPUTS: dict[str, dict[str, int]] = {"arrhythmia": {"features": 2}}


@dataclass(frozen=True, eq=False)
class OpenGraph:
    """A graph that is ready to run.

    Attributes
    ----------
    session
        The ONNX Runtime session.
    variant
        Precision, e.g. ``fp32``.
    device
        The device really used.
    """

    session: onnxruntime.InferenceSession
    variant: str
    device: str

    @classmethod
    def of(cls, bundle: Bundle, *, device: Device, variant: str | None, threads: int | None) -> OpenGraph:
        """Open the graph of a bundle; raises BundleError or DeviceError."""
        session, used = open_session(bundle.graph(variant), device=device, threads=threads)
        _check_tensors(bundle, session)
        return cls(session, variant or bundle.default_variant, used)

    def run(self, outputs: list[str], inputs: dict[str, Array]) -> list[Array]:
        """Run the graph; only the named outputs are computed.

        Raises
        ------
        DeviceError
            When ONNX Runtime fails, most often because memory runs out.
        BundleError
            When an output is not finite.
        """
        try:
            found: list[Array] = self.session.run(outputs, inputs)
        except runtime_errors() as error:
            raise DeviceError(
                f"ONNX Runtime failed on {self.device}: {' '.join(str(error).split())}"
            ) from error
        if not all(np.isfinite(array).all() for array in found):
            raise BundleError(
                f"the graph's {', '.join(outputs)} are not finite, so the bundle cannot be used"
            )
        return found

    def empty_cache(self, batch: int) -> tuple[Float32s, Float32s]:
        """Keys and values before the first hour, shape ``(blocks, batch, heads, 0, size)`` each."""
        shapes = {node.name: node.shape for node in self.session.get_inputs()}
        blocks, _, heads, _, size = shapes["past_k"]
        nothing = np.zeros((blocks, batch, heads, 0, size), dtype=np.float32)
        return nothing, nothing

    def model(self, bundle: Bundle, operating_point: str) -> Model:
        """How answers name this model."""
        return Model(bundle.name, bundle.version, bundle.sha256, self.variant, operating_point, self.device)


def _check_tensors(bundle: Bundle, session: onnxruntime.InferenceSession) -> None:
    inputs, outputs = _TENSORS[bundle.task]
    for expected, nodes, specs, word in (
        (inputs, session.get_inputs(), bundle.inputs, "inputs"),
        (outputs, session.get_outputs(), bundle.outputs, "outputs"),
    ):
        found = {node.name: len(node.shape) for node in nodes}
        stated = {spec.name: len(spec.shape) for spec in specs}
        optional = _OPTIONAL_OUTPUTS.get(bundle.task, {}) if word == "outputs" else {}
        expected = expected | {name: axes for name, axes in optional.items() if name in found}
        if found != expected or stated != expected:
            raise BundleError(
                f"{bundle.path}: the graph has the {word} {found}, the contract states {stated}, "
                f"a model for {bundle.task} has {expected} (tensor: number of axes)"
            )
