"""The network of a bundle: the weights in its graph, as a checkpoint to start training from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from export.build import BUILDS
from export.check import LOGIT_TOLERANCE, largest_difference
from ibt_deploy.bundle import Bundle
from ibt_deploy.errors import ExportError, IbtError
from ibt_deploy.golden import GOLDEN, golden_cases
from training.checkpoint import SCHEMA
from training.recipe import recipe_from_dict
from training.tasks import build_network

NETWORK = "network."
"""Prefix of weights in a graph: the adapters of :mod:`export.graph` hold the network under this name."""


def bundle_checkpoint(bundle: Bundle) -> dict[str, Any]:
    """Content of the ``best.pt`` from which ``bundle`` was exported, with the scores that the bundle states.

    The network scores the bundle's golden inputs first: its logits must be those of the bundle within 1e-4.

    Raises
    ------
    ExportError
        The graph does not hold every weight as the network has it, or the network that its recipe describes
        today gives other logits.
    """
    contract, training = bundle.contract, bundle.contract.get("training")
    if training is None:
        raise ExportError(f"{bundle.path}: does not say how it was trained")
    student, build = training["student"], BUILDS[bundle.task]
    _, first, last = bundle.inputs[0].shape
    n_inputs, samples = (first, last) if isinstance(first, int) else (last, 0)
    assert isinstance(n_inputs, int)
    assert isinstance(samples, int)
    try:
        network = build_network(recipe_from_dict(student["recipe"]), n_inputs, samples)
        weights = graph_weights(onnx.load_from_string(bundle.graph("fp32")), network.state_dict())
    except IbtError as error:
        raise ExportError(f"{bundle.path}: its weights cannot be recovered: {error}") from error
    network.load_state_dict(weights)
    for case in golden_cases(bundle.path / GOLDEN):
        found = build.network_logits(network, case.features)
        if found.shape != case.logits.shape or not largest_difference(found, case.logits) <= LOGIT_TOLERANCE:
            raise ExportError(
                f"{bundle.path}: the network that this version of ibt builds from its recipe gives other "
                "logits; probably an older version exported it"
            )
    return {
        "schema": SCHEMA,
        "recipe": student["recipe"],
        "epoch": student["best_epoch"] - 1,
        "scores": {k: v for k, v in student["validation_at_best_epoch"].items() if v is not None},
        "network": weights,
        "preprocessing": build.training_preprocessing(contract["preprocessing"]),
        "cache_sha256": training["data"]["cache_sha256"],
        "split_sha256": training["data"]["split_sha256"],
        "n_inputs": n_inputs,
        "samples": samples,
        "learnt_from": student.get("learnt_from", {}),
    }


def graph_weights(model: onnx.ModelProto, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values that ``model`` holds for the weights in ``wanted``, a network's ``state_dict()``.

    Raises
    ------
    ExportError
        A weight has another shape, or is missing: the exporter merges the weights of a CNN with its batch
        norms, some of an ECG DeiT, and tensors that are equal.
    """
    stored = {entry.name: entry for entry in model.graph.initializer}
    found = {}
    for name, parameter in wanted.items():
        as_named = stored.get(NETWORK + name)
        entry = as_named or stored.get(_position(model) if name == "position" else _factor(model, name))
        if entry is None:
            raise ExportError(f"the exporter merged {name} with other weights")
        values = numpy_helper.to_array(entry)
        values = values if as_named or name == "position" else values.T
        if values.shape != tuple(parameter.shape):
            raise ExportError(f"{name} has the shape {values.shape}, not {tuple(parameter.shape)}")
        found[name] = torch.from_numpy(np.array(values, order="C"))
    return found


def _factor(model: onnx.ModelProto, weight: str) -> str:
    """Name of a linear layer's weight where product and bias are two operators; it is stored transposed."""
    bias = f"{NETWORK}{weight.removesuffix('.weight')}.bias"
    factors = {node.output[0]: str(node.input[1]) for node in model.graph.node if node.op_type == "MatMul"}
    for node in model.graph.node:
        if node.op_type == "Add" and bias in node.input:
            return next((factors[name] for name in node.input if name in factors), "")
    return ""


def _position(model: onnx.ModelProto) -> str:
    """Name of an ECG network's positions if they are few: what is added to the embedded patches."""
    sums = [node for node in model.graph.node if node.op_type == "Add"]
    embedded = {node.output[0] for node in sums if f"{NETWORK}embedding.bias" in node.input}
    for node in sums:
        if embedded & set(node.input):
            return next((str(name) for name in node.input if name not in embedded), "")
    return ""
