"""The network in a bundle: the weights of its graph, as a checkpoint to start training from."""

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
from ibt_deploy.errors import ExportError
from ibt_deploy.golden import GOLDEN, golden_cases
from ibt_deploy.preprocess.ecg import VERSION
from training.checkpoint import SCHEMA
from training.recipe import recipe_from_dict
from training.tasks import build_network

NETWORK = "network."
"""Prefix of weights in a graph: the adapters of :mod:`export.graph` hold the network under this name."""


class MergedWeights(ExportError):
    """The exporter merged some weights: a CNN's with its batch norms, an ECG DeiT's with each other."""


def bundle_checkpoint(bundle: Bundle) -> dict[str, Any]:
    """Content of the ``best.pt`` from which ``bundle`` was exported.

    The network scores the bundle's golden inputs first: its logits must be those of the bundle within 1e-4.

    Raises
    ------
    MergedWeights
        The graph does not hold every weight by itself.
    ExportError
        The network gives other logits.
    """
    contract, training = bundle.contract, bundle.contract["training"]
    student, constants = training["student"], dict(contract["preprocessing"])
    if constants.pop("shortest_seconds", None) is not None:  # training has no such limit
        constants["version"] = VERSION
    _, first, last = contract["inputs"][0]["shape"]
    n_inputs, samples = (first, last) if isinstance(first, int) else (last, 0)
    network = build_network(recipe_from_dict(student["recipe"]), n_inputs, samples)
    model = onnx.load(bundle.path / bundle.variants["fp32"])
    weights = graph_weights(model, network.state_dict())
    network.load_state_dict(weights)
    scored = BUILDS[bundle.task].network_logits
    differences = [
        largest_difference(scored(network, case.features), case.logits)
        for case in golden_cases(bundle.path / GOLDEN)
    ]
    if not max(differences) <= LOGIT_TOLERANCE:
        raise ExportError(f"{bundle.path}: the weights of its graph give other logits than the bundle")
    return {
        "schema": SCHEMA,
        "recipe": student["recipe"],
        "epoch": student["best_epoch"] - 1,
        "scores": student["validation_at_best_epoch"],
        "network": weights,
        "preprocessing": constants,
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
    MergedWeights
        The graph does not hold a weight by itself.
    ExportError
        A weight has another shape.
    """
    stored = {entry.name: entry for entry in model.graph.initializer}
    found = {}
    for name, parameter in wanted.items():
        key, transposed = NETWORK + name, False
        if key not in stored:
            key, transposed = _renamed(model, name)
        if key not in stored:
            raise MergedWeights(f"the graph does not hold the weight {name} by itself")
        values = numpy_helper.to_array(stored[key])
        values = values.T if transposed else values
        if values.shape != tuple(parameter.shape):
            raise ExportError(f"the graph holds the weight {name} with the shape {values.shape}")
        found[name] = torch.from_numpy(np.array(values, order="C"))
    return found


def _renamed(model: onnx.ModelProto, weight: str) -> tuple[str, bool]:
    """Name under which the exporter stored ``weight``, empty if it did not, and whether it is transposed.

    It stores the weight of a linear layer transposed if product and bias are two operators, and the positions
    of an ECG's patches, if they are few, as what is added to the embedded patches.
    """
    sums = [node for node in model.graph.node if node.op_type == "Add"]
    if weight == "position":
        embedded = {node.output[0] for node in sums if f"{NETWORK}embedding.bias" in node.input}
        others = (set(node.input) - embedded for node in sums if embedded & set(node.input))
        return next((str(name) for names in others for name in names), ""), False
    bias = f"{NETWORK}{weight.removesuffix('.weight')}.bias"
    factors = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    products = (name for node in sums if bias in node.input for name in node.input if name in factors)
    return next((str(factors[name]) for name in products), ""), True
