"""The public data sets behind the models: what they are called, their licence and how to cite them.

Licences and citations as the data sets' own pages state them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

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

ECG_SOURCES: dict[str, tuple[DataSet, ...]] = {
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


def ecg_datasets(sources: Iterable[str]) -> list[DataSet]:
    """The data sets behind some sources, each once; a source that is not known here is named as such."""
    found: dict[str, DataSet] = {}
    for source in sources:
        unknown = DataSet(f"{source} (not a public set known here)", "not stated", "not stated")
        for entry in ECG_SOURCES.get(source, (unknown,)):
            found[entry.name] = entry
    return list(found.values())


def citations(task: str) -> list[str]:
    """What must be cited beside the data sets themselves."""
    return [_CHALLENGE_2021, PHYSIONET] if task == "arrhythmia" else [PHYSIONET]
