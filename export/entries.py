"""The entries of ``bundle.json``, whose layout :mod:`ibt_deploy.bundle` describes.

Statements say what a bundle is for, what it is not for and where it must be doubted. Licences and citations
of the public data sets are as the data sets' own pages state them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from export.scored import Data, EcgPart
from ibt_deploy.bundle import CONTRACT
from ibt_deploy.files import atomic_write, file_sha256
from ibt_deploy.predictions import NOTICE
from ibt_deploy.preprocess.ecg import MASKED_VERSION
from ibt_deploy.vocabulary import CLASSES, LEADS
from training.checkpoint import TrainedNetwork
from training.data.split import Part
from training.models.students import EcgTransformer

CC_BY = "CC BY 4.0"


@dataclass(frozen=True)
class DataSet:
    """One public data set."""

    name: str
    licence: str
    citation: str

    def to_dict(self) -> dict[str, str]:
        """As a bundle keeps it."""
        return asdict(self)


PHYSIONET = (
    "Goldberger AL et al. PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101(23):e215-e220, 2000. "
    "doi:10.1161/01.CIR.101.23.e215"
)
_CHALLENGE_2021 = (
    "Reyna MA et al. Will Two Do? Varying Dimensions in Electrocardiography: The PhysioNet/Computing in "
    "Cardiology Challenge 2021. Computing in Cardiology 48, 2021. doi:10.23919/CinC53138.2021.9662687"
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
"""Data sets by the name that preparation gives a source."""

CHALLENGE_2019 = DataSet(
    "PhysioNet/Computing in Cardiology Challenge 2019, training sets A and B",
    CC_BY,
    "Reyna MA et al. Early Prediction of Sepsis From Clinical Data: The PhysioNet/Computing in Cardiology "
    "Challenge 2019. Crit Care Med 48(2):210-217, 2020. doi:10.1097/CCM.0000000000004145; data: "
    "doi:10.13026/v64v-d857",
)
EXAMPLES = {
    "arrhythmia": DataSet(
        "golden inputs: waveform_ecg.dcm of pydicom, converted",
        "MIT",
        "pydicom, Copyright (c) 2008-2020 Darcy Mason and pydicom contributors",
    ),
    "sepsis": DataSet("golden inputs: a synthetic stay of this project", "Apache-2.0", "none needed"),
}


def named_datasets(sources: Iterable[str]) -> list[DataSet]:
    """The data sets behind sources or external sets, each once; an unknown one is named as such."""
    found: dict[str, DataSet] = {}
    for source in sources:
        unknown = DataSet(f"{source} (not a public set known here)", "not stated", "not stated")
        for entry in SOURCES.get(source, (unknown,)):
            found[entry.name] = entry
    return list(found.values())


def citations(task: str) -> list[str]:
    """What must be cited beside the data sets themselves."""
    return [_CHALLENGE_2021, PHYSIONET] if task == "arrhythmia" else [PHYSIONET]


INTENDED_USE = {
    "arrhythmia": (
        f"{NOTICE} For research on the classification of resting 12-lead ECGs of adults: it suggests which "
        "of the 26 scored diagnostic statements of the PhysioNet/CinC Challenge 2021 a reader would have "
        "made, with a calibrated probability each. Intended users are researchers and clinical engineers who "
        "validate it on their own recordings first (`ibt evaluate`)."
    ),
    "sepsis": (
        f"{NOTICE} For research on early warning: for every hour of a stay in intensive care it estimates, "
        "from that hour and earlier ones alone, the probability that the hour lies later than six hours "
        "before the onset of sepsis as the PhysioNet/CinC Challenge 2019 defines it. Intended users are "
        "researchers and clinical engineers who validate it on their own patients first (`ibt evaluate`)."
    ),
}
NOT_INTENDED = {
    "arrhythmia": (
        "diagnosis, triage or treatment of patients, with or without a reader",
        "emergency decisions: ischaemia and infarction are not among the classes",
        "monitoring: telemetry, Holter, exercise and single-lead recordings",
        "absence of a finding as evidence of absence",
    ),
    "sepsis": (
        "diagnosis, triage or treatment of patients, or withholding any of these",
        "wards, emergency departments and operating theatres",
        "onset of sepsis within 4 h of admission and stays shorter than 8 h, which the data leave out",
        "hours after the 336th of a stay, which are left out",
    ),
}
NOT_EVALUATED_ON = {
    "arrhythmia": (
        "hospitals, countries and devices other than those of the sources named",
        "children",
        "paced rhythms as a group of their own",
        "recordings with misplaced or missing leads (both are accepted with a warning where they can be "
        "noticed)",
        "prospective use",
    ),
    "sepsis": (
        "hospitals other than the two (A and B, both in the USA) of the public training sets",
        "children",
        "years, case mix and measuring habits other than theirs",
        "prospective use, and any effect on patients",
    ),
}
LIMITS = {
    "arrhythmia": (
        "Labels are one set per recording, of mixed provenance (machine, one reader or several): agreement "
        "with them has a ceiling well below 1.",
        "Classes and sources are entangled, so that part of what looks like diagnosis may be recognition of "
        "the source. In the public sets Ningbo labels no AF but thousands of AFL; PTB-XL labels no PVC "
        "although over a thousand of its recordings carry the unscored 'ventricular ectopics'; PRWP occurs "
        "only in Ningbo, most LPR in PTB-XL, most Brady in CPSC-Extra; CPSC labels neither axis nor QAb nor "
        "LQRSV.",
        "A class that a source does not label counts as absent there, as in the official evaluation: absent "
        "is not negative. Read figures per source beside the pooled ones.",
        "Absolute voltage is unknown where a recording's amplitude is approximate; its LQRSV is left out of "
        "training and of every figure.",
        "Macro means are taken over the classes that are evaluable and have at least five positives in the "
        "set, so means over different sets are not comparable.",
        "Attention of the network is no explanation for a reader and none is shown.",
    ),
    "sepsis": (
        "Whether and when something is measured is an input and informative: an order for lactate is a "
        "suspicion. Such habits belong to a hospital. Challenge entries that scored 0.43 on hospitals A and "
        "B fell to about -0.1 on a third one.",
        "Length of stay (ICULOS), time before admission and the unit are inputs and strong shortcuts.",
        "SepsisLabel turns 1 six hours before onset by definition. Stays that are positive from their first "
        "hour (their number is above) leave nothing to warn of, and their true onset may have been earlier.",
        "Most alarms are false: 0.1 to 0.3 of alarms being right is what published models of this kind "
        "reach.",
        "Published external validations of a widely used commercial model found AUROC 0.63 (Wong et al. "
        "2021). Internal figures such as those above are no promise for another hospital.",
        "Units in the public files are partly wrong in their documentation; the contract states the units "
        "used here.",
    ),
}

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
        "parts": {name: part.entry() for name, part in data.parts.items()},
        "sets": [entry.to_dict() for entry in data_sets(data)],
        "cite_also": citations(data.task),
    }


def data_sets(data: Data) -> list[DataSet]:
    """The public data sets behind a cache."""
    if data.task == "sepsis":
        return [CHALLENGE_2019]
    sources = {
        s for part in data.parts.values() if isinstance(part, EcgPart) for s in part.groups["source"].tolist()
    }
    return named_datasets(sorted(sources))


def licence_lines(sets: list[DataSet], task: str) -> list[str]:
    """The ``licences`` of a contract: one line for each data set that left a trace in the bundle."""
    return [f"{entry.name}: {entry.licence}. {entry.citation}" for entry in (*sets, EXAMPLES[task])]


def seal(folder: Path, contract: dict[str, Any]) -> None:
    """Write ``bundle.json`` with the hash of every other file in the folder."""
    files = sorted(path for path in folder.iterdir() if path.name != CONTRACT)
    sealed = contract | {"files": {path.name: file_sha256(path) for path in files}}
    text = json.dumps(sealed, indent=1, allow_nan=False) + "\n"
    atomic_write(folder / CONTRACT, text)
