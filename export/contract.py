"""Put together ``bundle.json``, whose layout :mod:`ibt_deploy.bundle` describes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from export.data import AnyPart, Data, EcgPart, StayPart
from export.datasets import CHALLENGE_2019, EXAMPLES, DataSet, citations, ecg_datasets
from export.statements import INTENDED_USE, LIMITS, NOT_EVALUATED_ON, NOT_INTENDED
from ibt_deploy.bundle import CONTRACT
from ibt_deploy.classes import CLASSES
from ibt_deploy.files import file_sha256
from ibt_deploy.leads import LEADS
from ibt_deploy.preprocess.ecg import MASKED_VERSION
from training.checkpoint import TrainedNetwork
from training.models.transformer import EcgTransformer
from training.tasks.base import Part

_DTYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}
_CACHE_AXES = ("block", "stay", "head", "row so far", "width of a head")
_TENSORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "signal": (
        "standard deviations of the training signal (preprocessing.scale, in mV)",
        ("window of 10 s", f"lead: {', '.join(LEADS)}", "sample at 200 Hz"),
    ),
    "logits": ("log odds before calibration", ("window of 10 s", "class, in the order of 'classes'")),
    "features": ("what the classifier reads", ("window of 10 s", "feature")),
    "rows": (
        "features as made by the preprocessing",
        ("stay", "hour, padded at the end", "feature, in the order of 'feature_names'"),
    ),
    "position": ("rows since the first row of the stay, from 0", ("stay", "hour")),
    "past_k": ("keys of earlier rows; none at the start of a stay", _CACHE_AXES),
    "past_v": ("values of earlier rows; none at the start of a stay", _CACHE_AXES),
    "logit": ("log odds before calibration", ("stay", "hour")),
    "present_k": ("keys of all rows so far", _CACHE_AXES),
    "present_v": ("values of all rows so far", _CACHE_AXES),
}


def identity_contract(
    trained: TrainedNetwork, model: onnx.ModelProto, name: str, version: str, created: str
) -> dict[str, Any]:
    """The parts of a contract that are known before anything is tuned, with neutral decisions.

    It is complete, so that scoring can load it to produce the logits that everything else is tuned on.
    """
    task = trained.recipe.task
    n = len(CLASSES) if task == "arrhythmia" else 1
    contract: dict[str, Any] = {
        "schema": 1,
        "task": task,
        "name": name,
        "version": version,
        "created": created,
        "intended_use": INTENDED_USE[task],
        "not_intended": list(NOT_INTENDED[task]),
        "not_evaluated_on": list(NOT_EVALUATED_ON[task]),
        "limits": list(LIMITS[task]),
        "inputs": tensor_entries(model.graph.input),
        "outputs": tensor_entries(model.graph.output),
        "preprocessing": deployed_preprocessing(trained),
        "calibration": {"kind": "platt", "slope": [1.0] * n, "intercept": [0.0] * n},
        "operating_points": {"neutral": {"thresholds": [0.5] * n, "description": "not tuned"}},
        "default_operating_point": "neutral",
        "variants": {"fp32": "model.onnx"},
        "default_variant": "fp32",
    }
    if task == "arrhythmia":
        nothing = np.zeros(n, dtype=np.int64)
        contract["classes"] = class_entries({"train": nothing}, np.ones(n, dtype=bool))
    else:
        from ibt_deploy.preprocess.stay import StayPreprocessing

        constants = StayPreprocessing.from_dict(trained.preprocessing)
        contract["feature_names"] = list(constants.feature_names)
    return contract


def deployed_preprocessing(trained: TrainedNetwork) -> dict[str, Any]:
    """The preprocessing of training; for a network that masks, with NaN where nothing was recorded.

    Its shortest recording is one patch, until agreement on validation says how much is needed.
    """
    constants = dict(trained.preprocessing)
    if isinstance(trained.network, EcgTransformer):
        seconds = trained.network.patch / constants["sampling_rate"]
        constants |= {"version": MASKED_VERSION, "shortest_seconds": seconds}
    return constants


def tensor_entries(values: Any) -> list[dict[str, Any]]:
    """The entries of ``inputs`` or ``outputs`` for the inputs or outputs of a graph."""
    entries = []
    for value in values:
        unit, axes = _TENSORS[value.name]
        tensor = value.type.tensor_type
        entries.append(
            {
                "name": value.name,
                "dtype": _DTYPES[tensor.elem_type],
                "shape": [d.dim_param or d.dim_value for d in tensor.shape.dim],
                "unit": unit,
                "axes": list(axes),
            }
        )
    return entries


def class_entries(
    positives: Mapping[Part, npt.NDArray[np.int64]], evaluable: npt.NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """The entries of ``classes``."""
    return [
        {
            "code": c.code,
            "abbreviation": c.abbreviation,
            "name": c.name,
            "codes": list(c.codes),
            "evaluable": bool(evaluable[i]),
            "positives": {part: int(counts[i]) for part, counts in positives.items()},
        }
        for i, c in enumerate(CLASSES)
    ]


def data_entry(data: Data) -> dict[str, Any]:
    """What was trained, tuned and tested on, with licences."""
    return {
        "cache_sha256": data.cache_sha256,
        "split_sha256": data.split_sha256,
        "preparation": data.counts,
        "parts": {name: part_entry(part) for name, part in data.parts.items()},
        "sets": [entry.to_dict() for entry in data_sets(data)],
        "cite_also": citations(data.task),
    }


def part_entry(part: AnyPart) -> dict[str, Any]:
    """Counts of a part, whole and by sub-group."""
    if isinstance(part, StayPart):
        septic = part.septic
        return {
            "stays": len(part),
            "septic": int(septic.sum()),
            "hours": len(part.labels),
            "positive_hours": int(part.labels.sum()),
            "septic_from_first_hour": int(part.labels[part.offsets[:-1]].sum()),
            "groups": {
                name: {
                    value: {
                        "stays": int((values == value).sum()),
                        "septic": int(septic[values == value].sum()),
                    }
                    for value in sorted(set(values.tolist()))
                }
                for name, values in part.groups.items()
            },
        }
    labelled = part.labels & part.known
    return {
        "recordings": len(part),
        "patients": len(np.unique(part.patients)),
        "groups": {
            name: {value: int((values == value).sum()) for value in sorted(set(values.tolist()))}
            for name, values in part.groups.items()
        },
        "positives_by_source": {
            source: {
                c.abbreviation: int(n)
                for c, n in zip(CLASSES, labelled[part.groups["source"] == source].sum(axis=0), strict=True)
                if n
            }
            for source in sorted(set(part.groups["source"].tolist()))
        },
    }


def data_sets(data: Data) -> list[DataSet]:
    """The public data sets behind a cache."""
    if data.task == "sepsis":
        return [CHALLENGE_2019]
    sources = {
        s for part in data.parts.values() if isinstance(part, EcgPart) for s in part.groups["source"].tolist()
    }
    return ecg_datasets(sorted(sources))


def licence_lines(sets: list[DataSet], task: str) -> list[str]:
    """The ``licences`` of a contract: one line for each data set that left a trace in the bundle."""
    return [f"{entry.name}: {entry.licence}. {entry.citation}" for entry in (*sets, EXAMPLES[task])]


def seal(folder: Path, contract: dict[str, Any]) -> None:
    """Write ``bundle.json`` with the hash of every other file in the folder."""
    files = sorted(path for path in folder.iterdir() if path.name != CONTRACT)
    sealed = contract | {"files": {path.name: file_sha256(path) for path in files}}
    text = json.dumps(sealed, indent=1, allow_nan=False) + "\n"
    (folder / CONTRACT).write_text(text, encoding="utf-8")
