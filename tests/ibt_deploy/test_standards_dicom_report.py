"""The DICOM Structured Report of an ECG that came as DICOM."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import highdicom
import pydicom
import pytest
from click.testing import CliRunner
from pydicom.data import get_testdata_file

from ibt_deploy import load
from ibt_deploy.cli import main
from ibt_deploy.errors import UnsupportedFormat
from ibt_deploy.predictions import ArrhythmiaPrediction
from ibt_deploy.standards.dicom_report import dicom_report

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"


@pytest.fixture(scope="module")
def ecg() -> Path:
    return Path(str(get_testdata_file("waveform_ecg.dcm")))


@pytest.fixture(scope="module")
def prediction(ecg: Path) -> ArrhythmiaPrediction:
    found = load("arrhythmia").predict(ecg)
    assert isinstance(found, ArrhythmiaPrediction)
    return found


def test_it_belongs_to_the_study_and_refers_to_the_ecg(prediction: ArrhythmiaPrediction, ecg: Path) -> None:
    source = pydicom.dcmread(ecg)
    report = pydicom.dcmread(io.BytesIO(dicom_report(prediction, ecg)))
    assert report.SOPClassUID == COMPREHENSIVE_SR
    assert (report.StudyInstanceUID, report.PatientID) == (source.StudyInstanceUID, source.PatientID)
    assert (report.CompletionFlag, report.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    (reference,) = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_it_holds_the_findings_with_their_probabilities(prediction: ArrhythmiaPrediction, ecg: Path) -> None:
    report = highdicom.sr.srread(io.BytesIO(dicom_report(prediction, ecg)))
    assert report.ConceptNameCodeSequence[0].CodeValue == "11524-0"  # LOINC: EKG study
    (findings,) = [
        item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121070"
    ]
    read = {}
    for item in findings.ContentSequence:
        values = {p.ConceptNameCodeSequence[0].CodeValue: p for p in item.ContentSequence}
        read[item.ConceptCodeSequence[0].CodeValue] = (
            values["probability"].MeasuredValueSequence[0].NumericValue
        )
        assert item.ConceptCodeSequence[0].CodingSchemeDesignator == "SCT"
    expected = {f.code: round(f.probability, 6) for f in prediction.findings if f.positive}
    assert {code: float(value) for code, value in read.items()} == pytest.approx(expected)
    comments = [str(item.TextValue) for item in report.ContentSequence if item.ValueType == "TEXT"]
    assert any("not a medical device" in comment for comment in comments)


def test_two_reports_are_two_instances_of_one_device(prediction: ArrhythmiaPrediction, ecg: Path) -> None:
    one, two = (pydicom.dcmread(io.BytesIO(dicom_report(prediction, ecg))) for _ in range(2))
    assert one.SOPInstanceUID != two.SOPInstanceUID
    devices = {
        item.UID for report in (one, two) for item in report.ContentSequence if item.ValueType == "UIDREF"
    }
    assert len(devices) == 1


def test_what_is_not_dicom_or_has_no_study_is_refused(
    prediction: ArrhythmiaPrediction, ecg: Path, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedFormat, match="needs an ECG in DICOM"):
        dicom_report(prediction, root / "examples" / "recording.hea")
    source = pydicom.dcmread(ecg)
    del source.StudyInstanceUID
    source.save_as(tmp_path / "nameless.dcm")
    with pytest.raises(UnsupportedFormat, match="names its study"):
        dicom_report(prediction, tmp_path / "nameless.dcm")


def test_the_command_writes_it(ecg: Path, root: Path, tmp_path: Path) -> None:
    run, out = CliRunner().invoke, tmp_path / "report.dcm"
    answered = run(main, ["predict", str(ecg), "--sr", str(out)])
    assert answered.exit_code == 0, answered.output
    assert pydicom.dcmread(out).SOPClassUID == COMPREHENSIVE_SR
    assert "--force replaces it" in run(main, ["predict", str(ecg), "--sr", str(out)]).output
    assert "one DICOM file" in run(main, ["predict", str(ecg), str(ecg), "--sr", str(tmp_path / "x")]).output
    stay = run(main, ["predict", str(root / "examples" / "stay.psv"), "--sr", str(tmp_path / "x")])
    assert stay.exit_code == 2
    assert not (tmp_path / "x").exists()


def dcmtk(tool: str, path: Path) -> subprocess.CompletedProcess[str]:
    """What a tool of dcmtk says of a file."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"dcmtk is not installed: no {tool}")
    return subprocess.run([found, str(path)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("tool", ["dcmdump", "dsrdump", "dsr2html"])
def test_dcmtk_reads_it_without_complaint(
    tool: str, prediction: ArrhythmiaPrediction, ecg: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(dicom_report(prediction, ecg))
    said = dcmtk(tool, path)
    assert (said.returncode, said.stderr) == (0, "")
    for finding in prediction.findings:
        if finding.positive:
            assert (finding.name if tool == "dsr2html" else finding.code) in said.stdout
            assert f"{finding.probability:.6f}".rstrip("0") in said.stdout


def test_dcmtk_would_see_a_fault(prediction: ArrhythmiaPrediction, ecg: Path, tmp_path: Path) -> None:
    """Control of the test above: a report that infers its content from the root is not valid."""
    report = pydicom.dcmread(io.BytesIO(dicom_report(prediction, ecg)))
    for item in report.ContentSequence:
        item.RelationshipType = "INFERRED FROM"
    path = tmp_path / "report.dcm"
    report.save_as(path)
    said = dcmtk("dsrdump", path)
    assert said.returncode != 0 or "E:" in said.stderr
