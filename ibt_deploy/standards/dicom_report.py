"""A prediction as a DICOM Structured Report, for an ECG that came as DICOM.

The report is a Comprehensive SR (PS3.3 A.35.3) in the study of the ECG: its title is "ECG Report" (LOINC
11524-0), its evidence is the ECG, and it holds one Finding for each positive class (SNOMED CT), with the
calibrated probability and the threshold as properties. It claims no template: those of PS3.16 for ECG reports
require measurements that are not made here. It is partial and unverified, because nobody has reviewed it.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibt_deploy import __version__
from ibt_deploy.errors import UnsupportedFormat, require
from ibt_deploy.predictions import NOTICE, ArrhythmiaPrediction, Finding

if TYPE_CHECKING:
    import highdicom

OWN_CODES = "99IBT"
"""Codes of this project; PS3.16 reserves names that begin with 99 for private codes."""
REPORT_SERIES = 9000
"""Series number of reports, above those of devices."""


def dicom_report(prediction: ArrhythmiaPrediction, source: Path) -> bytes:
    """The report on ``prediction`` as a DICOM file.

    Parameters
    ----------
    prediction
        The model's answer.
    source
        The DICOM file that was scored; the report belongs to its patient and study and refers to it.

    Raises
    ------
    UnsupportedFormat
        When ``source`` is not a DICOM file with a waveform, or does not say which study it belongs to.
    MissingExtra
        highdicom is not installed.
    """
    require("a DICOM Structured Report", "highdicom", "pydicom")
    import highdicom
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        ecg = pydicom.dcmread(source)
    except (InvalidDicomError, OSError) as error:
        raise UnsupportedFormat("a Structured Report needs an ECG in DICOM", where=str(source)) from error
    if "WaveformSequence" not in ecg or not (ecg.get("StudyInstanceUID") and ecg.get("SOPInstanceUID")):
        raise UnsupportedFormat(
            "a Structured Report needs a waveform that names its study and itself", where=str(source)
        )
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
        if name not in ecg:  # type 2: must be present, may be empty
            setattr(ecg, name, "")
    with warnings.catch_warnings():
        # the patient's name is kept as in the ECG, whatever its form
        warnings.filterwarnings("ignore", message="The string .* is unlikely to represent")
        report: Any = highdicom.sr.ComprehensiveSR(
            evidence=[ecg],
            content=_content(prediction)[0],
            series_instance_uid=_uid(),
            series_number=REPORT_SERIES,
            sop_instance_uid=_uid(),
            instance_number=1,
            manufacturer="ibt",
            manufacturer_model_name=prediction.model.name,
            software_versions=__version__,
            series_description=NOTICE,
        )
    out = BytesIO()
    report.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _content(prediction: ArrhythmiaPrediction) -> highdicom.sr.ContentSequence:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    contains = sr.RelationshipTypeValues.CONTAINS
    root = sr.ContainerContentItem(name=codes.LN.ECGReport)
    language = sr.LanguageOfContentItemAndDescendants(sr.CodedConcept("en-US", "RFC5646", "English (US)"))
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=_uid_of(prediction.model.sha256),
            name=prediction.model.name,
            manufacturer_name="ibt",
            model_name=f"{prediction.model.name} {prediction.model.version}",
        ),
    )
    findings = sr.ContainerContentItem(name=codes.DCM.Findings, relationship_type=contains)
    findings.ContentSequence = sr.ContentSequence(
        [_finding(finding) for finding in prediction.findings if finding.positive]
    )
    comments = [NOTICE, f"Operating point: {prediction.model.operating_point}."]
    comments += [f"{warning.code}: {warning.message}" for warning in prediction.warnings]
    items = [*language, *observer]
    items += [sr.TextContentItem(codes.DCM.Comment, text, contains) for text in comments]
    if prediction.heart_rate is not None and prediction.heart_rate.bpm is not None:
        rate = sr.NumContentItem(
            codes.LN.HeartRate,
            round(prediction.heart_rate.bpm, 1),
            sr.CodedConcept("/min", "UCUM", "per minute"),
            relationship_type=contains,
        )
        items.append(rate)
    if len(findings.ContentSequence):
        items.append(findings)
    root.ContentSequence = sr.ContentSequence(items)
    return sr.ContentSequence([root], is_root=True)


def _finding(finding: Finding) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    item = sr.CodeContentItem(
        codes.DCM.Finding,
        sr.CodedConcept(finding.code, "SCT", finding.name[:64]),
        sr.RelationshipTypeValues.CONTAINS,
    )
    unity = sr.CodedConcept("1", "UCUM", "no units")
    has = sr.RelationshipTypeValues.HAS_PROPERTIES
    properties = [
        sr.NumContentItem(sr.CodedConcept(value, OWN_CODES, meaning), number, unity, relationship_type=has)
        for value, meaning, number in (
            ("probability", "Calibrated probability", round(finding.probability, 6)),
            ("threshold", "Threshold of the operating point", round(finding.threshold, 6)),
        )
    ]
    item.ContentSequence = sr.ContentSequence(properties)
    return item


def _uid_of(sha256: str) -> str:
    """A UID derived from the bundle's hash, under the UUID root (PS3.5 B.2)."""
    return f"2.25.{int(sha256[:32], 16)}"


def _uid() -> str:
    from highdicom import UID

    return str(UID())
