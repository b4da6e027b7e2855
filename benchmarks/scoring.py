"""Milliseconds per recording and per stay-hour: the graph of the packaged bundles against PyTorch eager."""

from __future__ import annotations

import numpy as np
import onnx
import torch

from benchmarks.machine import markdown, seconds_per_call
from export.graph import quantised
from ibt_deploy.bundle import load_bundle
from ibt_deploy.device import open_session
from training.models.students import EcgTransformer, StayTransformer

HOURS = 48
BATCHES = (1, 32)


def scoring_table(threads: int, least: float) -> str:
    """One row for each engine and task; figures are the model's alone, without reading and preprocessing."""
    rows = [[name, *(f"{ms:.2f}" for ms in times)] for name, times in _ecg(threads, least).items()]
    rows += [[name, *(f"{ms:.3f}" for ms in times)] for name, times in _stay(threads, least).items()]
    return markdown(["scoring, ms", *(f"batch {b}" for b in BATCHES)], rows)


def _ecg(threads: int, least: float) -> dict[str, list[float]]:
    generator = np.random.default_rng(0)
    inputs = {b: generator.standard_normal((b, 12, 2000), dtype=np.float32) for b in BATCHES}
    network = EcgTransformer().eval()
    times: dict[str, list[float]] = {}

    @torch.inference_mode()
    def eager(b: int) -> object:
        return network(torch.from_numpy(inputs[b]))

    times["a recording, PyTorch eager"] = [
        seconds_per_call(lambda b=b: eager(b), least) / b * 1e3 for b in BATCHES
    ]
    bundle = load_bundle("arrhythmia")
    for variant in bundle.variants:
        session, _ = open_session(bundle.graph(variant), device="cpu", threads=threads)
        times[f"a recording, ONNX Runtime {variant}"] = [
            seconds_per_call(lambda b=b, s=session: s.run(["logits"], {"signal": inputs[b]}), least) / b * 1e3
            for b in BATCHES
        ]
    return times


def _stay(threads: int, least: float) -> dict[str, list[float]]:
    generator = np.random.default_rng(0)
    network = StayTransformer().eval()
    feeds = {}
    for b in BATCHES:
        empty = np.zeros((3, b, 8, 0, 32), dtype=np.float32)
        position = np.tile(np.arange(HOURS), (b, 1))
        rows = generator.standard_normal((b, HOURS, 109), dtype=np.float32)
        feeds[b] = {"rows": rows, "position": position, "past_k": empty, "past_v": empty}
    times: dict[str, list[float]] = {}

    @torch.inference_mode()
    def eager(b: int) -> object:
        return network(torch.from_numpy(feeds[b]["rows"]))

    times[f"a stay-hour ({HOURS} h stays), PyTorch eager"] = [
        seconds_per_call(lambda b=b: eager(b), least) / b / HOURS * 1e3 for b in BATCHES
    ]
    graph = load_bundle("sepsis").graph("fp32")
    int8 = quantised(onnx.load_from_string(graph)).SerializeToString()
    for variant, content in (("fp32", graph), ("int8 (not shipped: it breaks causality)", int8)):
        session, _ = open_session(content, device="cpu", threads=threads)
        times[f"a stay-hour ({HOURS} h stays), ONNX Runtime {variant}"] = [
            seconds_per_call(lambda b=b, s=session: s.run(["logit"], feeds[b]), least) / b / HOURS * 1e3
            for b in BATCHES
        ]
    return times
