"""Answers as FHIR R4: valid, complete, and with the numbers of the plain answer."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import ibt_deploy
from ibt_deploy.batch.run import Options, run_batch
from ibt_deploy.predictions import ArrhythmiaPrediction, Refusal, SepsisPrediction
from ibt_deploy.standards.fhir_answers import fhir_resource

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    r4b = pytest.importorskip("fhir.resources.R4B")


def validated(resource: dict[str, Any]) -> Any:
    """The resource as the definitions of HL7 have it; nothing unknown, nothing lost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = r4b.get_fhir_model_class(resource["resourceType"])
        parsed = model.model_validate(resource)
        assert json.loads(parsed.model_dump_json()) == json.loads(json.dumps(resource))
    return parsed


@pytest.fixture(scope="module")
def recording(root: Path) -> ArrhythmiaPrediction:
    answer = ibt_deploy.load("arrhythmia").predict(root / "examples" / "recording.hea")
    assert isinstance(answer, ArrhythmiaPrediction)
    return answer


@pytest.fixture(scope="module")
def stay(root: Path) -> SepsisPrediction:
    answer = ibt_deploy.load("sepsis").predict(root / "examples" / "stay.psv")
    assert isinstance(answer, SepsisPrediction)
    return answer


def test_a_recording_is_a_report_with_an_observation_for_each_class(recording: ArrhythmiaPrediction) -> None:
    bundle = fhir_resource(recording)
    validated(bundle)
    by_url = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    for resource in by_url.values():
        validated(resource)
    report = bundle["entry"][0]["resource"]
    assert report["resourceType"] == "DiagnosticReport"
    results = [by_url[result["reference"]] for result in report["result"]]
    for finding, found in zip(recording.findings, results, strict=True):
        assert found["code"]["coding"][0] == {
            "system": "http://snomed.info/sct", "code": finding.code, "display": finding.name,
        }  # fmt: skip
        if finding.evaluable:
            assert found["valueQuantity"]["value"] == pytest.approx(finding.probability, abs=1e-6)
            sign = found["interpretation"][0]["coding"][0]["code"]
            assert sign == ("POS" if finding.positive else "NEG")
        else:
            assert "valueQuantity" not in found
            assert found["dataAbsentReason"]["coding"][0]["code"] == "unsupported"
    positive = {finding.code for finding in recording.findings if finding.positive}
    assert {concept["coding"][0]["code"] for concept in report["conclusionCode"]} == positive
    assert by_url[results[0]["device"]["reference"]]["resourceType"] == "Device"


def test_a_stay_is_a_risk_assessment_for_each_hour(stay: SepsisPrediction) -> None:
    bundle = fhir_resource(stay)
    validated(bundle)
    risks = [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "RiskAssessment"]
    for resource in risks[:3]:
        validated(resource)
    found = [risk["prediction"][0]["probabilityDecimal"] for risk in risks]
    assert found == [pytest.approx(risk, abs=1e-6) for risk in stay.risk]
    alarms = [risk["prediction"][0]["qualitativeRisk"]["text"] == "alarm" for risk in risks]
    assert alarms == stay.alarms.tolist()
    assert [risk["identifier"][0]["value"] for risk in risks] == [f"stay/hour/{hour}" for hour in stay.hours]


def test_ids_differ_within_and_repeat_between_answers(stay: SepsisPrediction) -> None:
    urls = [entry["fullUrl"] for entry in fhir_resource(stay)["entry"]]
    assert len(set(urls)) == len(urls)
    assert urls == [entry["fullUrl"] for entry in fhir_resource(stay)["entry"]]


def test_a_refusal_is_an_operation_outcome() -> None:
    outcome = fhir_resource(Refusal("x.hea", "missing_leads", "x.hea: V1 is missing"))
    validated(outcome)
    assert outcome["issue"][0]["details"]["coding"][0]["code"] == "missing_leads"


def test_batch_writes_ndjson(root: Path, tmp_path: Path, recording: ArrhythmiaPrediction) -> None:
    (tmp_path / "in").mkdir()
    for name in ("recording.hea", "recording.dat"):
        (tmp_path / "in" / name).write_bytes((root / "examples" / name).read_bytes())
    (tmp_path / "in" / "bad.hea").write_text("bad 12\n", encoding="utf-8")
    run_batch(Options(sources=[str(tmp_path / "in")], out=tmp_path / "out", format="fhir", workers=1))
    (scored,) = (
        (tmp_path / "out" / "predictions" / "part-00000.ndjson").read_text(encoding="utf-8").splitlines()
    )
    (refused,) = (tmp_path / "out" / "refused" / "part-00000.ndjson").read_text(encoding="utf-8").splitlines()
    bundle = json.loads(scored)
    validated(bundle)
    validated(json.loads(refused))
    expected = {e["resource"]["id"] for e in fhir_resource(recording)["entry"]}
    assert {e["resource"]["id"] for e in bundle["entry"]} == expected
