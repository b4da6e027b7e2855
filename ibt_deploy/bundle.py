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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import numpy as np

from ibt_deploy.errors import BundleError
from ibt_deploy.files import file_sha256
from ibt_deploy.types import PARTS, TASKS, AnyFloats, Floats, Task, checked
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

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(
                f"tensor {self.name!r} has {len(self.shape)} axes of which {len(self.axes)} are named"
            )


@dataclass(frozen=True)
class BundleClass:
    """One output class: its codes, and whether training had enough positives to say anything about it."""

    code: str
    abbreviation: str
    name: str
    codes: tuple[str, ...]
    evaluable: bool
    positives: dict[str, int]

    @property
    def short(self) -> str:
        """The shorter abbreviation: ``LBBB`` of ``CLBBB|LBBB``; the first if both are of equal length."""
        return min(self.abbreviation.split("|"), key=len)


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
        slope = _vector(entry["slope"], "(0, inf)", n_outputs, "calibration.slope")
        return cls(slope, _vector(entry["intercept"], "(-inf, inf)", n_outputs, "calibration.intercept"))

    def probability(self, logits: AnyFloats) -> Floats:
        """Calibrated probabilities of logits whose last axis is the outputs (or which have one output)."""
        return sigmoid(self.slope * logits.astype(np.float64) + self.intercept)


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A named set of thresholds on calibrated probabilities, shape ``(outputs,)``.

    At an ``exclusive`` one, findings that exclude each other are not reported together, and there may be no
    finding at all: see :func:`ibt_deploy.decisions.decided`.
    """

    name: str
    thresholds: Floats
    description: str
    exclusive: bool = False

    @classmethod
    def from_dict(cls, name: str, entry: dict[str, Any], n_outputs: int) -> OperatingPoint:
        """Read one operating point; raises ValueError or KeyError."""
        where = f"operating_points.{name}"
        thresholds = _vector(entry["thresholds"], "(0, 1]", n_outputs, f"{where}.thresholds")
        exclusive: bool = checked(entry.get("exclusive", False), bool, f"{where}.exclusive")
        if exclusive and n_outputs != len(CLASSES):
            raise ValueError(f"{where} is exclusive, but the outputs are not the 26 classes")
        return cls(name, thresholds, checked(entry["description"], str, f"{where}.description"), exclusive)


def _vector(values: Any, interval: str, length: int, path: str) -> Floats:
    numbers = checked(values, tuple[Annotated[float, interval], ...], path)
    if len(numbers) != length:
        raise ValueError(f"{path}: {len(numbers)} numbers where {length} are expected")
    return np.array(numbers, dtype=np.float64)


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
        Identity of the bundle.
    sha256
        Hash of ``bundle.json``, and through it of everything else.
    preprocessing
        The constants of the preprocessing, ready for use.
    inputs, outputs
        Tensors of the graph.
    classes
        The 26 classes in official order; empty for sepsis.
    calibration
        From logits to probabilities.
    operating_points
        Thresholds on calibrated probabilities, by name.
    default_operating_point, default_variant
        Used unless another is requested.
    variants
        Graph file of every precision, e.g. ``{"fp32": "model.onnx"}``.
    files
        SHA-256 of every file but ``bundle.json``.
    contract
        ``bundle.json`` as parsed, for entries that only people read (metrics, training, licences...).
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
        """Bytes of the ONNX graph of ``variant``, hashed again so that what was checked is what runs."""
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
        """Distribution of the training features, if the bundle holds it."""
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
    """Directories of the bundles shipped in the package, by task."""
    return {task: _PACKAGED / task for task in TASKS if (_PACKAGED / task / CONTRACT).is_file()}


def bundle_path(task_or_directory: str | Path) -> Path:
    """Directory of a bundle: the packaged one of a task, or a named directory.

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
        With a one-line message that says which file or entry is wrong.
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

    def entry(name: str, hint: Any) -> Any:
        return checked(contract[name], hint, name, ignore_unknown=True)

    classes: tuple[BundleClass, ...] = ()
    if PARTS[task].has_classes:
        classes = entry("classes", tuple[BundleClass, ...])
        if [c.code for c in classes] != [c.code for c in CLASSES]:
            raise ValueError("'classes' are not the 26 scored classes in the official order")
        if not any(c.evaluable for c in classes):
            raise ValueError("'classes' holds no evaluable class")
    n_outputs = len(classes) or 1
    points = {
        name: OperatingPoint.from_dict(name, point, n_outputs)
        for name, point in contract["operating_points"].items()
    }
    variants, files = entry("variants", dict[str, str]), entry("files", dict[str, str])
    for chosen, known, word in (
        (contract["default_operating_point"], points, "operating point"),
        (contract["default_variant"], variants, "variant"),
    ):
        if chosen not in known:
            raise ValueError(f"the default {word} {chosen!r} is not among those listed")
    for file in variants.values():
        if file not in files or not file.endswith(".onnx"):
            raise ValueError(f"the variant file {file!r} is not an .onnx file listed under 'files'")
    return Bundle(
        path=path,
        task=task,
        name=entry("name", str),
        version=entry("version", str),
        created=entry("created", str),
        sha256=sha256,
        preprocessing=PARTS[task].preprocessing.load().from_dict(contract["preprocessing"]),
        inputs=entry("inputs", tuple[TensorSpec, ...]),
        outputs=entry("outputs", tuple[TensorSpec, ...]),
        classes=classes,
        calibration=Calibration.from_dict(contract["calibration"], n_outputs),
        operating_points=points,
        default_operating_point=contract["default_operating_point"],
        variants=variants,
        default_variant=contract["default_variant"],
        files=files,
        contract=contract,
    )


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
