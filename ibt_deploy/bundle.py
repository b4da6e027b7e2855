"""The bundle: a directory that holds one deployable model and its whole contract.

::

    <task>/
    ├── bundle.json        the contract, see below
    ├── model.onnx         the graph in float32, and any proven variant, e.g. model.int8.onnx
    ├── golden.npz         raw inputs with expected features and logits (layout: ibt_deploy.golden)
    ├── curves.svg         the picture in the card, drawn from bundle.json
    └── card.md            the model card, generated from bundle.json

``bundle.json`` (schema 1) names the task, version, tensors, preprocessing with its constants, classes,
calibration, thresholds of every operating point, held-out metrics, training data, licences, intended use and
the SHA-256 of every other file. The SHA-256 of ``bundle.json`` itself is the hash of the bundle, and so
covers all of it. Only ONNX, JSON, Markdown, SVG and pickle-free numpy archives are allowed: nothing in a
bundle can execute code when it is loaded (the picture is for people; nothing here ever opens it).

A bundle is refused when a file is altered, missing or unexpected, when a name leads out of the directory,
when the contract contradicts itself, and when it asks for preprocessing that this version does not implement.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ibt_deploy.errors import BundleError
from ibt_deploy.files import file_sha256
from ibt_deploy.types import TASKS, AnyFloats, Floats, Task
from ibt_deploy.vocabulary import CLASSES

if TYPE_CHECKING:
    from ibt_deploy.familiarity import Familiarity
    from ibt_deploy.preprocess.ecg import EcgPreprocessing
    from ibt_deploy.preprocess.stay import StayPreprocessing


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


CONTRACT = "bundle.json"
SUFFIXES = (".onnx", ".json", ".npz", ".md", ".svg")
_MAX_CONTRACT_BYTES = 4 * 2**20
_PACKAGED = Path(__file__).parent / "bundles"


@dataclass(frozen=True, eq=False)
class Bundle:
    """One verified bundle.

    Attributes
    ----------
    path
        The directory.
    task, name, version, created
        What it is.
    sha256
        Hash of ``bundle.json``, and through it of everything.
    preprocessing
        The constants of the preprocessing, ready to be used.
    inputs, outputs
        Tensors of the graph.
    classes
        The 26 classes in official order; empty for sepsis.
    calibration
        From logits to probabilities.
    operating_points
        Thresholds on calibrated probabilities, by name.
    default_operating_point, default_variant
        Used unless another is asked for.
    variants
        Graph file of every precision, e.g. ``{"fp32": "model.onnx"}``.
    files
        SHA-256 of every file but ``bundle.json``.
    contract
        ``bundle.json`` as it stands, for all that only people read (metrics, training, licences...).
    """

    path: Path
    task: Task
    name: str
    version: str
    created: str
    sha256: str
    preprocessing: EcgPreprocessing | StayPreprocessing
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    classes: tuple[BundleClass, ...]
    calibration: Calibration
    operating_points: dict[str, OperatingPoint]
    default_operating_point: str
    variants: dict[str, str]
    default_variant: str
    files: dict[str, str]
    contract: dict[str, Any]

    def graph(self, variant: str | None = None) -> bytes:
        """Bytes of the ONNX graph of ``variant``, hashed again: what was checked is what runs."""
        chosen = variant or self.default_variant
        if chosen not in self.variants:
            raise BundleError(
                f"{self.path}: no variant '{chosen}'; there is {', '.join(sorted(self.variants))}"
            )
        name = self.variants[chosen]
        content = (self.path / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.files[name]:
            raise BundleError(f"{self.path / name}: the content does not match its SHA-256 in {CONTRACT}")
        return content

    def operating_point(self, name: str | None = None) -> OperatingPoint:
        """The operating point ``name``, or the default one."""
        chosen = name or self.default_operating_point
        if chosen not in self.operating_points:
            known = ", ".join(sorted(self.operating_points))
            raise BundleError(f"{self.path}: no operating point '{chosen}'; there is {known}")
        return self.operating_points[chosen]

    def familiarity(self) -> Familiarity | None:
        """What inputs of the training set look like, where the bundle says it."""
        from ibt_deploy.familiarity import FAMILIARITY, Familiarity

        if FAMILIARITY not in self.files:
            return None
        return Familiarity.read(self.path / FAMILIARITY)

    @property
    def card(self) -> str:
        """Text of the model card."""
        if "card.md" not in self.files:
            raise BundleError(f"{self.path}: this bundle has no model card")
        return (self.path / "card.md").read_text(encoding="utf-8")


def packaged_bundles() -> dict[Task, Path]:
    """Directories of the bundles that travel inside the package, by task."""
    return {task: _PACKAGED / task for task in TASKS if (_PACKAGED / task / CONTRACT).is_file()}


def bundle_path(task_or_directory: str | Path) -> Path:
    """Directory of a bundle: the packaged one of a task, or the directory that is named.

    Raises
    ------
    BundleError
        When the task has no packaged bundle, or the directory holds none.
    """
    if task_or_directory in TASKS:
        packaged = packaged_bundles().get(task_or_directory)
        if packaged is None:
            raise BundleError(f"no {task_or_directory} bundle is installed; name a directory with --bundle")
        return Path(packaged)
    path = Path(task_or_directory)
    if not path.is_dir():
        raise BundleError(f"{path}: neither a task ({', '.join(TASKS)}) nor a bundle directory")
    if not (path / CONTRACT).is_file():
        raise BundleError(f"{path}: no {CONTRACT} in it, so it is not a bundle")
    return path


def load_bundle(task_or_directory: str | Path) -> Bundle:
    """Read, check and return a bundle; every file is hashed (34 MB take about 20 ms with SHA instructions).

    Raises
    ------
    BundleError
        One line that says which file or entry is wrong.
    """
    path = bundle_path(task_or_directory)
    raw = _contract_bytes(path)
    contract = _contract(path, raw)
    try:
        bundle = _bundle(path, contract, hashlib.sha256(raw).hexdigest())
    except (KeyError, TypeError, ValueError) as error:
        detail = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise BundleError(f"{path / CONTRACT}: {detail}") from error
    _check_files(bundle)
    return bundle


def _contract_bytes(path: Path) -> bytes:
    file = path / CONTRACT
    if file.is_symlink():
        raise BundleError(f"{file}: a bundle holds no links")
    if file.stat().st_size > _MAX_CONTRACT_BYTES:
        raise BundleError(f"{file}: larger than a contract can be")
    return file.read_bytes()


def _contract(path: Path, raw: bytes) -> dict[str, Any]:
    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a number of JSON")

    try:
        contract = json.loads(raw, parse_constant=refuse_constant)
    except ValueError as error:
        raise BundleError(f"{path / CONTRACT}: not valid JSON ({error})") from error
    if not isinstance(contract, dict):
        raise BundleError(f"{path / CONTRACT}: not a JSON object")
    if contract.get("schema") != 1:
        raise BundleError(
            f"{path / CONTRACT}: schema {contract.get('schema')!r} is unknown, this version understands 1"
        )
    return contract


def _bundle(path: Path, contract: dict[str, Any], sha256: str) -> Bundle:
    task = contract["task"]
    if task not in TASKS:
        raise ValueError(f"task {task!r} is none of {', '.join(TASKS)}")
    classes = BundleClass.all_from(contract["classes"]) if task == "arrhythmia" else ()
    n_outputs = len(classes) or 1
    points = {
        str(name): OperatingPoint.from_dict(str(name), entry, n_outputs)
        for name, entry in contract["operating_points"].items()
    }
    variants = {str(name): str(file) for name, file in contract["variants"].items()}
    files = {str(name): str(digest) for name, digest in contract["files"].items()}
    for chosen, known, word in (
        (contract["default_operating_point"], points, "operating point"),
        (contract["default_variant"], variants, "variant"),
    ):
        if chosen not in known:
            raise ValueError(f"the default {word} {chosen!r} is not among those listed")
    for file in variants.values():
        if file not in files or not file.endswith(".onnx"):
            raise ValueError(f"the variant file {file!r} is not an .onnx file listed under 'files'")
    if task == "sepsis" and set(variants) != {"fp32"}:
        raise ValueError("a sepsis bundle has the variant fp32 only; dynamic quantisation breaks causality")
    return Bundle(
        path=path,
        task=task,
        name=str(contract["name"]),
        version=str(contract["version"]),
        created=str(contract["created"]),
        sha256=sha256,
        preprocessing=_preprocessing(task, contract["preprocessing"]),
        inputs=tuple(TensorSpec.from_dict(entry) for entry in contract["inputs"]),
        outputs=tuple(TensorSpec.from_dict(entry) for entry in contract["outputs"]),
        classes=classes,
        calibration=Calibration.from_dict(contract["calibration"], n_outputs),
        operating_points=points,
        default_operating_point=contract["default_operating_point"],
        variants=variants,
        default_variant=contract["default_variant"],
        files=files,
        contract=contract,
    )


def _preprocessing(task: Task, constants: dict[str, Any]) -> EcgPreprocessing | StayPreprocessing:
    if task == "arrhythmia":
        from ibt_deploy.preprocess.ecg import EcgPreprocessing

        return EcgPreprocessing.from_dict(constants)
    from ibt_deploy.preprocess.stay import StayPreprocessing

    return StayPreprocessing.from_dict(constants)


def _check_files(bundle: Bundle) -> None:
    for name in bundle.files:
        plain = name not in ("", ".", "..", CONTRACT) and not any(c in name for c in "/\\:\0")
        if not plain or not name.endswith(SUFFIXES):
            raise BundleError(f"{bundle.path / CONTRACT}: {name!r} is not the plain name of a bundle's file")
    found = {entry.name for entry in bundle.path.iterdir()} - {CONTRACT}
    if unexpected := sorted(found - bundle.files.keys()):
        raise BundleError(
            f"{bundle.path}: unexpected {', '.join(unexpected)}; a bundle holds only what it lists"
        )
    for name, digest in bundle.files.items():
        file = bundle.path / name
        if file.is_symlink() or not file.is_file():
            raise BundleError(f"{file}: missing, or not a plain file")
        if file_sha256(file) != digest:
            raise BundleError(f"{file}: the content does not match its SHA-256 in {CONTRACT}")
