"""Entries of ``bundle.json`` common to all tasks; :mod:`ibt_deploy.bundle` describes its layout.

Licences and citations of the public data sets are as stated on the data sets' own pages.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from ibt_deploy.bundle import CONTRACT
from ibt_deploy.errors import DataError
from ibt_deploy.files import atomic_write, file_sha256
from ibt_deploy.types import checked

CC_BY = "CC BY 4.0"


@dataclass(frozen=True)
class DataSet:
    """One public data set."""

    name: str
    licence: str
    citation: str

    def to_dict(self) -> dict[str, str]:
        """The entry in a bundle."""
        return asdict(self)


PHYSIONET = (
    "Goldberger AL et al. PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101(23):e215-e220, 2000. "
    "doi:10.1161/01.CIR.101.23.e215"
)
_CHALLENGE_2020 = (
    "Perez Alday EA et al. Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology Challenge "
    "2020. Physiol Meas 41(12):124003, 2020. doi:10.1088/1361-6579/abc960"
)
_PTB_XL = DataSet(
    "PTB-XL",
    CC_BY,
    "Wagner P et al. PTB-XL, a large publicly available electrocardiography dataset. Sci Data 7:154, 2020. "
    "doi:10.1038/s41597-020-0495-6",
)
_CPSC = (
    "Liu F et al. An open access database for evaluating the algorithms of electrocardiogram rhythm and "
    "morphology abnormality detection. J Med Imaging Health Inform 8(7):1368-1373, 2018. "
    "doi:10.1166/jmihi.2018.2442"
)
_CHAPMAN = DataSet(
    "Chapman-Shaoxing",
    CC_BY,
    "Zheng J et al. A 12-lead electrocardiogram database for arrhythmia research covering more than 10,000 "
    "patients. Sci Data 7:48, 2020. doi:10.1038/s41597-020-0386-x",
)
_NINGBO = DataSet(
    "Ningbo",
    CC_BY,
    "Zheng J et al. Optimal multi-stage arrhythmia classification approach. Sci Rep 10:2898, 2020. "
    "doi:10.1038/s41598-020-59821-7",
)

SOURCES: dict[str, tuple[DataSet, ...]] = {
    "ptb-xl": (_PTB_XL,),
    "ptb-xl-rescaled": (_PTB_XL,),
    "chapman_ningbo": (_CHAPMAN, _NINGBO),
    "chapman_shaoxing": (_CHAPMAN,),
    "ningbo": (_NINGBO,),
    "georgia": (DataSet("Georgia 12-lead ECG Challenge Database", CC_BY, _CHALLENGE_2020),),
    "cpsc_2018": (DataSet("CPSC 2018", CC_BY, _CPSC),),
    "cpsc_2018_extra": (DataSet("CPSC 2018 Extra", CC_BY, _CPSC),),
    "ptb": (
        DataSet(
            "PTB Diagnostic ECG Database",
            "ODC-By 1.0",
            "Bousseljot R, Kreiseler D, Schnabel A. Nutzung der EKG-Signaldatenbank CARDIODAT der PTB ueber "
            "das Internet. Biomed Tech 40(s1):317, 1995",
        ),
    ),
    "sph": (
        DataSet(
            "SPH (Shandong Provincial Hospital)",
            CC_BY,
            "Liu H et al. A large-scale multi-label 12-lead electrocardiogram database with standardized "
            "diagnostic statements. Sci Data 9:272, 2022. doi:10.1038/s41597-022-01403-5",
        ),
    ),
    "ludb": (
        DataSet(
            "LUDB (Lobachevsky University Electrocardiography Database)",
            "ODC-By 1.0",
            "Kalyakulina AI et al. LUDB: A New Open-Access Validation Tool for Electrocardiogram Delineation "
            "Algorithms. IEEE Access 8:186181-186190, 2020. doi:10.1109/ACCESS.2020.3029211",
        ),
    ),
    "eicu": (
        DataSet(
            "eICU Collaborative Research Database Demo 2.0.1 (figures alone)",
            "ODbL 1.0",
            "Johnson A, Pollard T, Badawi O, Raffa J. eICU Collaborative Research Database Demo (version "
            "2.0.1). PhysioNet, 2021. doi:10.13026/4mxk-na84",
        ),
    ),
}
"""Data sets by the source name that preparation gives."""


def named_datasets(sources: Iterable[str]) -> list[DataSet]:
    """The data sets behind sources or external sets, without repetition; an unknown one is named as such."""
    found: dict[str, DataSet] = {}
    for source in sources:
        unknown = DataSet(f"{source} (not a public set known here)", "not stated", "not stated")
        for entry in SOURCES.get(source, (unknown,)):
            found[entry.name] = entry
    return list(found.values())


Tensors = Mapping[str, tuple[str, tuple[str, ...]]]
"""Unit and axes of the inputs and outputs of a graph, by name."""


@dataclass(frozen=True)
class About:
    """Statements of every bundle of a task, regardless of its network.

    Attributes
    ----------
    intended_use, not_intended, not_evaluated_on, limits
        Statements of the contract and the card.
    golden_inputs
        Name, licence and citation of the examples that golden inputs are made from.
    citations
        Citations required besides the data sets.
    tensors
        Units and axes of the graph's inputs and outputs.
    title, tags, data_set, challenge, example
        For a model hub: purpose of the model, tags, name and identifier of its test data, and a scoring
        example.
    """

    intended_use: str
    not_intended: tuple[str, ...]
    not_evaluated_on: tuple[str, ...]
    limits: tuple[str, ...]
    golden_inputs: DataSet
    citations: tuple[str, ...]
    tensors: Tensors
    title: str
    tags: tuple[str, ...]
    data_set: str
    challenge: str
    example: str

    def statements(self) -> dict[str, Any]:
        """Entries of a contract."""
        return {
            "intended_use": self.intended_use,
            "not_intended": list(self.not_intended),
            "not_evaluated_on": list(self.not_evaluated_on),
            "limits": list(self.limits),
        }


@dataclass(frozen=True)
class Candidate:
    """A model that might have been shipped, with its figures by name."""

    name: str
    figures: dict[str, float]
    chosen: bool = False


@dataclass(frozen=True)
class Candidates:
    """Models among which the shipped one was chosen.

    Attributes
    ----------
    about
        What the figures are measured on, and how.
    reason
        Reason for the choice.
    models
        The models.
    """

    about: str
    reason: str
    models: tuple[Candidate, ...]

    @classmethod
    def read(cls, path: Path) -> Candidates:
        """The candidates in a TOML file; DataError if it holds anything else."""
        try:
            found: Candidates = checked(tomllib.loads(path.read_text(encoding="utf-8")), cls)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        if not found.models:
            raise DataError(f"{path}: lists no model")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The entry in a bundle."""
        return asdict(self)


_DTYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}


def tensor_entries(values: Any, tensors: Tensors) -> list[dict[str, Any]]:
    """The entries of ``inputs`` or ``outputs`` for the inputs or outputs of a graph."""
    entries = []
    for value in values:
        unit, axes = tensors[value.name]
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


def seal(folder: Path, contract: dict[str, Any]) -> None:
    """Write ``bundle.json`` with the hash of every other file in the folder."""
    files = sorted(path for path in folder.iterdir() if path.name != CONTRACT)
    sealed = contract | {"files": {path.name: file_sha256(path) for path in files}}
    text = json.dumps(sealed, indent=1, allow_nan=False) + "\n"
    atomic_write(folder / CONTRACT, text)
