"""A trained network as an ONNX graph.

============ =============================================================== ==========================
network      inputs                                                          outputs
============ =============================================================== ==========================
ECG          ``signal (batch, leads, samples)``                              ``logits (batch, classes)``,
                                                                             ``features (batch, dim)``
stay         ``rows (batch, hours, features)``, ``position (batch, hours)``, ``logit (batch, hours)``,
             ``past_k``, ``past_v (blocks, batch, heads, past, width)``      ``present_k``, ``present_v``
============ =============================================================== ==========================

In the signal of an ECG transformer a NaN marks samples that were not recorded: the graph masks their patches
in attention and pooling, so that a short recording is scored as if unpadded. ``features`` is the input of the
classifier. A CNN has only the output ``logits`` and does not accept NaN.

``batch``, ``hours`` and ``past`` are dynamic, ``past`` may be 0. Sigmoid, calibration and thresholds are data
of the bundle and not part of the graph; the maps of block-by-block matching exist in training only.

The graph is traced with every dynamic axis at 2 or more, because an axis of 0 or 1 would become static. Stack
traces and source paths of the exporting machine are removed.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import version_converter
from torch import Tensor, nn

from ibt_deploy.device import FIXED_SCALES
from ibt_deploy.errors import ExportError
from training.models import Encoder
from training.models.students import Block, EcgTransformer, StayDeiT, StayTransformer
from training.models.teachers import HannunResNet

OPSET = 23
ATTENTION_OPSET = 23
"""First opset in which attention is one operator; before it, the graph spells out its formula."""
OLDEST_TRACED_OPSET = 18
"""Oldest opset the exporter writes; graphs without newer operators can be converted down from it."""

# Said about every network and of no consequence: torchvision's operators are not needed, the spelling of a
# check inside torch, and that axes which are equal get one name.
_HARMLESS_WARNINGS = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (UserWarning, r"# The axis name: \w+ will not be used, since it shares the same shape constraints"),
)
_HARMLESS_LOGGER = "torch.onnx._internal.exporter._registration"


def _block(block: Block, z: Tensor, shape: torch.Size, *attention: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block of a transformer, with attention as one operator of ONNX.

    ``z`` holds the tokens of all inputs as rows ``(batch * time, dim)``, so that linear layers become the
    operator that adds a bias as well. ``shape`` is ``(batch, time, dim)``; ``attention`` holds the mask that
    is added to the scores and, with a cache, past keys and values.

    Returns
    -------
    Rows of the same shape, then keys and values of past and present, empty without a cache.
    """
    layer = block.attention
    q, k, v = layer.qkv(block.norm1(z)).view(shape[0], shape[1], -1).split(shape[2], dim=-1)
    attend = torch.onnx.ops.attention
    y, keys, values, _ = attend(q, k, v, *attention, q_num_heads=layer.heads, kv_num_heads=layer.heads)
    z = z + layer.out(y.reshape(z.shape))
    return z + block.mlp(block.norm2(z)), keys, values


class _CachedScoring(nn.Module):
    """Adapter whose forward pass is a stay network's step with keys and values."""

    def __init__(self, network: StayTransformer, opset: int) -> None:
        super().__init__()
        self.network = network
        # a StayDeiT has a query beside the row of each hour, and one operator cannot express both
        self.spelt_out = opset < ATTENTION_OPSET or isinstance(network, StayDeiT)

    def forward(self, rows: Tensor, position: Tensor, past_k: Tensor, past_v: Tensor) -> Any:
        network = self.network
        if self.spelt_out:
            return network.forward_cached(rows, position, past_k, past_v)
        tokens, mask = network.embed_at(rows, position, past_k.shape[3])
        shape, z, keys, values = tokens.shape, tokens.flatten(0, 1), [], []
        for i, block in enumerate(network.blocks):
            assert isinstance(block, Block)
            z, k, v = _block(block, z, shape, mask, past_k[i], past_v[i])
            keys.append(k)
            values.append(v)
        logits = network.head(network.norm(z).view(shape))
        return logits, torch.stack(keys), torch.stack(values)


class _MaskedScoring(nn.Module):
    """Adapter whose forward pass is an ECG transformer's scoring of signals with missing ends."""

    def __init__(self, network: EcgTransformer, opset: int) -> None:
        super().__init__()
        self.network, self.spelt_out = network, opset < ATTENTION_OPSET

    def forward(self, signal: Tensor) -> Any:
        network = self.network
        if self.spelt_out:
            return network.masked(signal)
        tokens, mask, valid = network.embed_recorded(signal)
        shape, z = tokens.shape, tokens.flatten(0, 1)
        mask = mask.expand(-1, 1, shape[1], shape[1])  # ONNX Runtime does not broadcast it on CPUs
        for block in network.blocks:
            assert isinstance(block, Block)
            z, _, _ = _block(block, z, shape, mask)
        return network.read(network.norm(z).view(shape), valid)


def graph_of(
    network: Encoder, n_inputs: int, samples: int, metadata: Mapping[str, str], opset: int = OPSET
) -> onnx.ModelProto:
    """The network as a checked ONNX model with all weights inside.

    Parameters
    ----------
    network
        An ECG network, or a stay transformer that can score with cached keys and values.
    n_inputs, samples
        Leads and samples of an ECG window; for stays, features of a row, and any number.
    metadata
        Kept in the model's ``metadata_props``.
    opset
        Version of ONNX's operators.

    Raises
    ------
    ExportError
        When the network has no such graph, or the operator set cannot express it.
    """
    was_training = network.training
    network.eval()
    try:
        if isinstance(network, StayTransformer):
            model = _stay_graph(network, n_inputs, max(opset, OLDEST_TRACED_OPSET))
        elif isinstance(network, EcgTransformer | HannunResNet):
            model = _ecg_graph(network, n_inputs, samples, max(opset, OLDEST_TRACED_OPSET))
        else:
            raise ExportError(f"a {type(network).__name__} cannot be exported")
    finally:
        network.train(was_training)
    if opset < OLDEST_TRACED_OPSET:
        model = converted_down(model, opset)
    _check_opset(model, opset)
    _forget_the_machine(model)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    return model


def _ecg_graph(network: nn.Module, leads: int, samples: int, opset: int) -> onnx.ModelProto:
    example = torch.zeros(2, leads, samples)
    outputs = ["logits"]
    if isinstance(network, EcgTransformer):
        network, outputs = _MaskedScoring(network, opset).eval(), ["logits", "features"]
    return _traced(network, (example,), ["signal"], outputs, ({0: "batch"},), opset)


def _stay_graph(network: StayTransformer, features: int, opset: int) -> onnx.ModelProto:
    batch, hours, past = 2, 3, 5
    width = network.dim // network.n_heads
    cache = torch.zeros(network.n_units, batch, network.n_heads, past, width)
    example = (
        torch.zeros(batch, hours, features),
        torch.arange(past, past + hours).repeat(batch, 1),
        cache,
        cache.clone(),
    )
    axes = (
        {0: "batch", 1: "hours"},
        {0: "batch", 1: "hours"},
        {1: "batch", 3: "past"},
        {1: "batch", 3: "past"},
    )
    inputs, outputs = ["rows", "position", "past_k", "past_v"], ["logit", "present_k", "present_v"]
    return _traced(_CachedScoring(network, opset).eval(), example, inputs, outputs, axes, opset)


def _traced(
    network: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    axes: tuple[dict[int, str], ...],
    opset: int,
) -> onnx.ModelProto:
    try:
        with _without_chatter():
            program = torch.onnx.export(
                network,
                example,
                dynamo=True,
                opset_version=opset,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=axes,
                verbose=False,
            )
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"torch cannot write this network as ONNX: {reason}") from error
    if program is None:
        raise ExportError("torch cannot write this network as ONNX, and does not say why")
    return program.model_proto


@contextmanager
def _without_chatter() -> Iterator[None]:
    logger = logging.getLogger(_HARMLESS_LOGGER)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category, message in _HARMLESS_WARNINGS:
                warnings.filterwarnings("ignore", message=message, category=category)
            yield
    finally:
        logger.setLevel(level)


def converted_down(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Convert the graph to an older opset; ExportError if that cannot express it."""
    try:
        older = version_converter.convert_version(model, opset)
    except RuntimeError as error:
        raise ExportError(
            f"this network cannot be written in opset {opset}; use {OLDEST_TRACED_OPSET} or later"
        ) from error
    for node in older.graph.node:
        # the converter moves the axes into an attribute but leaves this one, which came with them
        for attribute in [a for a in node.attribute if a.name == "noop_with_empty_axes" and not a.i]:
            node.attribute.remove(attribute)
    return older


def _check_opset(model: onnx.ModelProto, opset: int) -> None:
    found = {entry.domain: entry.version for entry in model.opset_import}
    if found.get("") != opset or set(found) - {""}:
        raise ExportError(f"opset {opset} was requested, the exporter wrote {found}")


def _forget_the_machine(model: onnx.ModelProto) -> None:
    """Remove source file information, so that equal networks give equal bytes on any machine."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del model.metadata_props[:]
    del graph.metadata_props[:]
    for entries in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for entry in entries:
            entry.doc_string = ""
            del entry.metadata_props[:]


QUANTISED = ("MatMul", "Gemm")


def quantised(model: onnx.ModelProto, inputs: Sequence[Mapping[str, Any]]) -> onnx.ModelProto:
    """The same graph with integer products; metadata is kept, with a note of the precision.

    ``inputs`` are batches of arrays by the names of the graph's inputs. Their ranges fix the scales of the
    activations, so that an answer depends neither on what else is in the batch nor on later rows. Only
    products with a weight become integer products; their results are float32, with the bias added. The first
    and the last product stay in float32: raw inputs have the widest range, and both cost little.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    # the exporter has already folded constants and inferred shapes, which is all that preparation would do
    add_pre_process_metadata(prepared)
    # a Gemm's weight is transposed under its old name and would then contradict its recorded shape
    del prepared.graph.value_info[:]
    with tempfile.TemporaryDirectory(prefix="ibt-int8-") as folder:
        out = Path(folder) / "model.onnx"
        quantize_static(
            prepared,
            out,
            _reader(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=_products_of_weights(prepared)[1:-1],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # sums of 16 bits overflow on CPUs without VNNI
            extra_options={"OpTypesToExcludeOutputQuantization": list(QUANTISED)},
        )
        found = onnx.load(out)
    found.producer_name, found.producer_version = model.producer_name, model.producer_version
    del found.metadata_props[:]
    for entry in model.metadata_props:
        found.metadata_props.add(key=entry.key, value=entry.value)
    found.metadata_props.add(key="precision", value=FIXED_SCALES)
    onnx.checker.check_model(found, full_check=False)
    return found


def _products_of_weights(model: onnx.ModelProto) -> list[str]:
    """Names of the products with a weight, in the order in which they are computed."""
    weights = {entry.name for entry in model.graph.initializer}
    return [
        node.name for node in model.graph.node if node.op_type in QUANTISED and weights & set(node.input[1:2])
    ]


def _reader(batches: Sequence[Mapping[str, Any]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The batches, once."""

        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self._left, None)

    return Reader()
