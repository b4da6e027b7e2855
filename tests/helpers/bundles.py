"""Tiny but complete bundles: graphs of the right shape, small enough to follow by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ibt_deploy.bundle import Bundle, load_bundle
from ibt_deploy.device import open_session
from ibt_deploy.files import file_sha256
from ibt_deploy.golden import GoldenCase, write_golden
from ibt_deploy.preprocess.ecg import EcgPreprocessing, standardise, windows
from ibt_deploy.preprocess.stay import StayPreprocessing, featurise
from ibt_deploy.records import Recording, Stay
from ibt_deploy.vocabulary import CLASSES, INDEX, LEADS, N_TIME_VARYING, N_VARIABLES, VARIABLES

Edit = Callable[[dict[str, Any]], None]
NOT_EVALUABLE = ("BBB", "PRWP")


def recording(
    seconds: float = 10.0, rate: float = 500.0, seed: int = 0, leads: tuple[str, ...] = LEADS, **changes: Any
) -> Recording:
    """A synthetic recording: limb leads that obey Einthoven's law, spikes at 75 a minute, some noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    beat = np.exp(-(((time % 0.8) - 0.3) ** 2) / (2 * 0.012**2)) + 0.2 * np.exp(
        -(((time % 0.8) - 0.5) ** 2) / 0.003
    )
    one, two = (gain * beat + rng.normal(0, 0.02, len(time)) for gain in (0.7, 1.1))
    chest = [gain * beat + rng.normal(0, 0.02, len(time)) for gain in (-0.6, -0.2, 0.4, 0.9, 1.2, 1.0)]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    by_name = dict(zip(LEADS, np.array([*limb, *chest]), strict=True))
    fields: dict[str, Any] = {
        "signal": np.array([by_name[lead] for lead in leads]),
        "sampling_rate": rate,
        "leads": leads,
        "record_id": f"r{seed}",
        "source": f"r{seed}.hea",
        "format": "synthetic",
    }
    return Recording(**(fields | changes))


ORDINARY = {
    "HR": 88, "O2Sat": 97, "Temp": 36.9, "SBP": 121, "MAP": 82, "DBP": 60, "Resp": 18, "EtCO2": 33,
    "HCO3": 24, "FiO2": 0.4, "pH": 7.38, "PaCO2": 40, "SaO2": 97, "AST": 33, "BUN": 16,
    "Alkalinephos": 75, "Calcium": 8.3, "Chloride": 106, "BaseExcess": 0.5,
    "Creatinine": 0.9, "Bilirubin_direct": 0.4, "Glucose": 127,
    "Lactate": 1.8, "Magnesium": 2.0, "Phosphate": 3.3, "Potassium": 4.1, "Bilirubin_total": 0.8,
    "TroponinI": 0.3, "Hct": 31.5, "Hgb": 10.5, "PTT": 31, "WBC": 10.2, "Fibrinogen": 263,
    "Platelets": 191, "Age": 63, "Gender": 1, "HospAdmTime": -6,
}  # fmt: skip
"""Medians of the training stays, roughly."""


def stay(hours: int = 30, seed: int = 0, **changes: Any) -> Stay:
    """A synthetic stay: usual values, two thirds of them missing."""
    rng = np.random.default_rng(seed)
    usual = np.array([ORDINARY.get(variable.name, 0.0) for variable in VARIABLES])
    values = usual * rng.uniform(0.9, 1.1, (hours, N_VARIABLES))
    values = np.clip(values, [v.plausible_min for v in VARIABLES], [v.plausible_max for v in VARIABLES])
    values[:, :N_TIME_VARYING][rng.uniform(size=(hours, N_TIME_VARYING)) < 2 / 3] = np.nan
    values[:, INDEX["HR"]] = rng.normal(85, 10, hours).round()
    values[:, INDEX["Age"]] = 61.0
    values[:, INDEX["Gender"]] = 1.0
    values[:, INDEX["Unit1"]], values[:, INDEX["Unit2"]] = 1.0, 0.0
    values[:, INDEX["HospAdmTime"]] = -5.0
    values[:, INDEX["ICULOS"]] = np.arange(1, hours + 1)
    fields: dict[str, Any] = {
        "values": values,
        "patient_id": f"p{seed}",
        "source": f"p{seed}.psv",
        "format": "synthetic",
    }
    return Stay(**(fields | changes))


def write_header(folder: Path, given: Recording, dx: str = "426783006") -> Path:
    """Write a recording as WFDB format 16, 1000 units a mV; returns the header's path."""
    raw = np.nan_to_num(given.signal * 1000, nan=-32768).round().astype("<i2")
    (folder / f"{given.record_id}.dat").write_bytes(raw.T.tobytes())
    sums = raw.astype(np.int64).sum(axis=1) & 0xFFFF
    rows = [
        f"{given.record_id}.dat 16 1000(0)/mV 16 0 {row[0]} {checksum} 0 {lead}"
        for lead, row, checksum in zip(given.leads, raw, sums, strict=True)
    ]
    head = f"{given.record_id} {len(rows)} {given.sampling_rate:g} {raw.shape[1]}"
    path = folder / f"{given.record_id}.hea"
    path.write_text("\n".join([head, *rows, "# Age: 61", "# Sex: Female", f"# Dx: {dx}", ""]))
    return path


def write_psv(folder: Path, given: Stay) -> Path:
    """Write a stay as the Challenge does; returns the path."""
    names = [v.name for v in VARIABLES]
    labelled = given.labels is not None
    lines = ["|".join([*names, *(["SepsisLabel"] if labelled else [])])]
    for i, row in enumerate(given.values):
        cells = ["NaN" if np.isnan(v) else f"{v:.10g}" for v in row]
        lines.append("|".join([*cells, *([str(int(given.labels[i]))] if given.labels is not None else [])]))
    path = folder / f"{given.patient_id}.psv"
    path.write_text("\n".join([*lines, ""]))
    return path


def write_ecg_bundle(folder: Path, edit: Edit | None = None) -> Path:
    """A bundle whose logits are a linear map of the mean magnitude of each lead; with an int8 twin."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 1.5, (len(LEADS), len(CLASSES)))
    bias = rng.normal(-1.0, 0.5, len(CLASSES))
    onnx.save(_ecg_graph(weights, bias), folder / "model.onnx")
    onnx.save(_ecg_graph(weights * 1.001, bias), folder / "model.int8.onnx")
    constants = EcgPreprocessing(scale=0.25)
    session, _ = open_session((folder / "model.onnx").read_bytes(), device="cpu")
    cases = {}
    for name, given in {"usual": recording(), "long": recording(23.0, seed=1)}.items():
        read = windows(standardise(given), constants)
        cases[name] = GoldenCase(name, given, read, session.run(["logits"], {"signal": read})[0])
    write_golden(folder / "golden.npz", cases)
    n = len(CLASSES)
    contract = _contract("arrhythmia", constants.to_dict()) | {
        "inputs": [_tensor("signal", ["batch", 12, 2000], "standard deviations of the training signal")],
        "outputs": [_tensor("logits", ["batch", n], "log odds")],
        "classes": [
            {
                "code": c.code,
                "abbreviation": c.abbreviation,
                "name": c.name,
                "codes": list(c.codes),
                "evaluable": c.abbreviation not in NOT_EVALUABLE,
                "positives": {"train": 100, "validation": 20, "test": 20},
            }
            for c in CLASSES
        ],
        "calibration": {"kind": "platt", "slope": [1.1] * n, "intercept": [0.1] * n},
        "operating_points": {
            "challenge": {"thresholds": [0.4] * n, "description": "best challenge metric on validation"},
            "strict": {"thresholds": [0.999999] * n, "description": "hardly anything"},
        },
        "default_operating_point": "challenge",
        "variants": {"fp32": "model.onnx", "int8": "model.int8.onnx"},
    }
    return _sealed(folder, contract, edit)


def write_stay_bundle(folder: Path, edit: Edit | None = None) -> Path:
    """A bundle whose logits are a running sum over the cache, plus a linear map of the row."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    constants = StayPreprocessing.fit(np.concatenate([stay(60, seed).values for seed in range(20)]))
    onnx.save(_stay_graph(rng.normal(0, 0.1, (constants.n_features, 32))), folder / "model.onnx")
    session, _ = open_session((folder / "model.onnx").read_bytes(), device="cpu")
    cases = {}
    for name, given in {"short": stay(9), "long": stay(120, seed=1)}.items():
        rows = featurise(given.values, np.array([0, len(given.values)]), constants)
        cases[name] = GoldenCase(name, given, rows, stay_logits(session, rows[None])[0])
    write_golden(folder / "golden.npz", cases)
    cache = [3, "batch", 8, "past", 32]
    grown = [3, "batch", 8, "past + hours", 32]
    contract = _contract("sepsis", constants.to_dict()) | {
        "inputs": [
            _tensor("rows", ["batch", "hours", constants.n_features], "features"),
            _tensor("position", ["batch", "hours"], "rows since the first", "int64"),
            _tensor("past_k", cache, "none"),
            _tensor("past_v", cache, "none"),
        ],
        "outputs": [
            _tensor("logit", ["batch", "hours"], "log odds"),
            _tensor("present_k", grown, "none"),
            _tensor("present_v", grown, "none"),
        ],
        "calibration": {"kind": "platt", "slope": [1.2], "intercept": [-2.0]},
        "operating_points": {"utility": {"thresholds": [0.08], "description": "best utility on validation"}},
        "default_operating_point": "utility",
        "variants": {"fp32": "model.onnx"},
    }
    return _sealed(folder, contract, edit)


def stay_logits(session: Any, rows: np.ndarray) -> np.ndarray:
    """Logits of features ``(b, t, F)`` straight from a session, without any cache."""
    nothing = np.zeros((3, len(rows), 8, 0, 32), dtype=np.float32)
    position = np.tile(np.arange(rows.shape[1]), (len(rows), 1))
    inputs = {"rows": rows, "position": position, "past_k": nothing, "past_v": nothing}
    found: np.ndarray = session.run(["logit"], inputs)[0]
    return found


def load(path: Path) -> Bundle:
    """The bundle at ``path``."""
    return load_bundle(path)


def reseal(folder: Path) -> None:
    """Bring the hashes of a bundle's files up to date, as after a legitimate change."""
    contract = json.loads((folder / "bundle.json").read_text())
    _sealed(folder, contract, None)


def _sealed(folder: Path, contract: dict[str, Any], edit: Edit | None) -> Path:
    (folder / "card.md").write_text(f"# {contract['name']}\n\nA model card.\n")
    files = sorted(p.name for p in folder.iterdir() if p.name != "bundle.json")
    contract["files"] = {name: file_sha256(folder / name) for name in files}
    if edit is not None:
        edit(contract)
    (folder / "bundle.json").write_text(json.dumps(contract, indent=1))
    return folder


def _contract(task: str, preprocessing: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": 1,
        "task": task,
        "name": f"tiny-{task}",
        "version": "0.0.1",
        "created": "2026-01-01T00:00:00Z",
        "preprocessing": preprocessing,
        "metrics": {"headline": [{"name": "AUROC", "set": "nobody", "value": 0.5, "interval": [0.4, 0.6]}]},
        "training": {"data": "none"},
        "intended_use": "tests",
        "not_evaluated_on": ["patients"],
        "licences": ["none"],
        "default_variant": "fp32",
    }


def _tensor(name: str, shape: list[int | str], unit: str, dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "unit": unit, "axes": [str(n) for n in shape]}


def _ecg_graph(weights: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Abs", ["signal"], ["magnitude"]),
        helper.make_node("ReduceMean", ["magnitude", "time"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "weights", "bias"], ["logits"]),
    ]
    constants = {
        "time": np.array([2]),
        "weights": weights.astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    inputs = [("signal", TensorProto.FLOAT, ["b", 12, 2000])]
    return _graph(nodes, constants, inputs, [("logits", TensorProto.FLOAT, ["b", weights.shape[1]])])


def _stay_graph(weights: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["rows", "weights"], ["projected"]),
        helper.make_node("Unsqueeze", ["projected", "block_and_head"], ["one"]),
        helper.make_node("Tile", ["one", "repeats"], ["new_k"]),
        helper.make_node("Mul", ["new_k", "half"], ["new_v"]),
        helper.make_node("Concat", ["past_k", "new_k"], ["present_k"], axis=3),
        helper.make_node("Concat", ["past_v", "new_v"], ["present_v"], axis=3),
        helper.make_node("CumSum", ["present_v", "time"], ["sum"]),
        helper.make_node("Shape", ["past_v"], ["past"], start=3, end=4),
        helper.make_node("Slice", ["sum", "past", "end", "times"], ["recent"]),
        helper.make_node("ReduceMean", ["recent", "others"], ["history"], keepdims=0),
        helper.make_node("ReduceMean", ["projected", "last"], ["now"], keepdims=0),
        helper.make_node("Cast", ["position"], ["place"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["place", "hundredth"], ["drift"]),
        helper.make_node("Sum", ["history", "now", "drift"], ["logit"]),
    ]
    constants = {
        "weights": weights.astype(np.float32),
        "block_and_head": np.array([0, 2]),
        "repeats": np.array([3, 1, 8, 1, 1]),
        "half": np.array(0.5, dtype=np.float32),
        "hundredth": np.array(0.01, dtype=np.float32),
        "time": np.array(3),
        "times": np.array([3]),
        "end": np.array([10**9]),
        "others": np.array([0, 2, 4]),
        "last": np.array([2]),
    }
    n = weights.shape[0]
    cache, grown = [3, "b", 8, "p", 32], [3, "b", 8, "p2", 32]
    inputs = [
        ("rows", TensorProto.FLOAT, ["b", "t", n]),
        ("position", TensorProto.INT64, ["b", "t"]),
        ("past_k", TensorProto.FLOAT, cache),
        ("past_v", TensorProto.FLOAT, cache),
    ]
    outputs = [
        ("logit", TensorProto.FLOAT, ["b", "t"]),
        ("present_k", TensorProto.FLOAT, grown),
        ("present_v", TensorProto.FLOAT, grown),
    ]
    return _graph(nodes, constants, inputs, outputs)


def _graph(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: list[tuple[str, int, list[Any]]],
    outputs: list[tuple[str, int, list[Any]]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model
