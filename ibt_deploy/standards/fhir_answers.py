"""Predictions as FHIR R4 resources.

A recording becomes a Bundle with a DiagnosticReport and one Observation per class; a stay becomes a
Bundle with one RiskAssessment per hour; a refusal becomes an OperationOutcome. The model is a Device
in the Bundle. Ids are derived from the record and the model, so that the same answer is the same resource.

A prediction has no calendar time: neither resource states a time, and the hour of a RiskAssessment is in its
identifier. Every resource is ``preliminary``, because nobody has reviewed it.
"""

from __future__ import annotations

import uuid
from typing import Any

from ibt_deploy.predictions import (
    DECIMALS,
    LEFT_OUT,
    NOTICE,
    ArrhythmiaPrediction,
    Finding,
    Prediction,
    Refusal,
    SepsisPrediction,
)
from ibt_deploy.types import PARTS

MEDIA_TYPE = "application/fhir+json"
SNOMED, LOINC, UCUM = "http://snomed.info/sct", "http://loinc.org", "http://unitsofmeasure.org"
HL7 = "http://terminology.hl7.org/CodeSystem"
HORIZON_HOURS = 6
"""The risk is the probability of SepsisLabel, which is 1 from six hours before onset."""

Resource = dict[str, Any]


def fhir_resource(answer: Prediction | Refusal) -> Resource:
    """An answer as one FHIR R4 resource: a Bundle, or an OperationOutcome for a refusal."""
    if isinstance(answer, Refusal):
        return _outcome(answer)
    return _bundle(answer, PARTS[answer.task].fhir.load()(answer))


def _outcome(refusal: Refusal) -> Resource:
    severity, kind = "error", "invalid"
    if refusal.code == "unsupported_format":
        kind = "not-supported"
    elif refusal.code == LEFT_OUT:
        severity, kind = "information", "informational"
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": severity,
                "code": kind,
                "details": {"coding": [{"code": refusal.code}], "text": refusal.message},
                "diagnostics": refusal.source,
            }
        ],
    }


def _bundle(answer: Prediction, resources: list[Resource]) -> Resource:
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "identifier": {"value": answer.record},
        "entry": [
            {"fullUrl": f"urn:uuid:{resource['id']}", "resource": resource}
            for resource in (*resources, _device(answer))
        ],
    }


def _id(answer: Prediction, what: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{answer.model.sha256}/{answer.record}/{what}"))


def _device(answer: Prediction) -> Resource:
    model = answer.model
    return {
        "resourceType": "Device",
        "id": _id(answer, "device"),
        "identifier": [{"value": f"sha256:{model.sha256}"}],
        "deviceName": [{"name": model.name, "type": "model-name"}],
        "version": [{"value": model.version}],
        "note": [{"text": f"Operating point {model.operating_point}, {model.variant}. {NOTICE}"}],
    }


def _reference(answer: Prediction, what: str) -> Resource:
    return {"reference": f"urn:uuid:{_id(answer, what)}"}


def _subject(answer: Prediction) -> Resource:
    return {"type": "Patient", "identifier": {"value": answer.record}}


def findings_resources(answer: ArrhythmiaPrediction) -> list[Resource]:
    """The DiagnosticReport and its Observations."""
    positive = [finding for finding in answer.findings if finding.positive]
    said = ", ".join(finding.name for finding in positive) or "none of the classes"
    sentences = [f"Positive: {said}.", *(warning.message for warning in answer.warnings), NOTICE]
    report = {
        "resourceType": "DiagnosticReport",
        "id": _id(answer, "report"),
        "identifier": [{"value": answer.record}],
        "status": "preliminary",
        "category": [{"coding": [{"system": f"{HL7}/v2-0074", "code": "EC"}]}],
        "code": {"coding": [{"system": LOINC, "code": "11524-6", "display": "EKG study"}]},
        "subject": _subject(answer),
        "result": [_reference(answer, finding.code) for finding in answer.findings],
        "conclusion": " ".join(sentences),
    }
    if positive:
        report["conclusionCode"] = [_snomed(finding) for finding in positive]
    return [report, *(_observation(answer, finding) for finding in answer.findings)]


def _observation(answer: ArrhythmiaPrediction, finding: Finding) -> Resource:
    """One class: its probability, and whether that reaches the threshold."""
    observation: Resource = {
        "resourceType": "Observation",
        "id": _id(answer, finding.code),
        "status": "preliminary",
        "category": [{"coding": [{"system": f"{HL7}/observation-category", "code": "procedure"}]}],
        "code": _snomed(finding),
        "subject": _subject(answer),
        "device": _reference(answer, "device"),
    }
    if not finding.evaluable:
        return observation | {
            "dataAbsentReason": {
                "coding": [{"system": f"{HL7}/data-absent-reason", "code": "unsupported"}],
                "text": "Training and validation say too little about this class.",
            }
        }
    sign, word = ("POS", "Positive") if finding.positive else ("NEG", "Negative")
    return observation | {
        "valueQuantity": _probability(finding.probability),
        "interpretation": [
            {"coding": [{"system": f"{HL7}/v3-ObservationInterpretation", "code": sign, "display": word}]}
        ],
        "referenceRange": [
            {"high": _probability(finding.threshold), "text": "Below the threshold a class is negative."}
        ],
    }


def _snomed(finding: Finding) -> Resource:
    coding = {"system": SNOMED, "code": finding.code, "display": finding.name}
    return {"coding": [coding], "text": finding.abbreviation}


def _probability(value: float) -> Resource:
    return {"value": round(value, DECIMALS), "unit": "probability", "system": UCUM, "code": "1"}


def risk_resources(answer: SepsisPrediction) -> list[Resource]:
    """One RiskAssessment per hour."""
    notes = [{"text": text} for text in (*(warning.message for warning in answer.warnings), NOTICE)]
    threshold = round(answer.threshold, DECIMALS)
    rows = zip(answer.hours.tolist(), answer.risk.tolist(), answer.alarms.tolist(), strict=True)
    return [
        {
            "resourceType": "RiskAssessment",
            "id": _id(answer, f"hour/{hour}"),
            "identifier": [{"value": f"{answer.record}/hour/{hour}"}],
            "status": "preliminary",
            "method": {"text": f"{answer.model.name} {answer.model.version}"},
            "code": {"text": "hourly sepsis risk"},
            "subject": _subject(answer),
            "performer": _reference(answer, "device"),
            "prediction": [
                {
                    "outcome": {"coding": [{"system": SNOMED, "code": "91302008", "display": "Sepsis"}]},
                    "probabilityDecimal": round(risk, DECIMALS),
                    "qualitativeRisk": {"text": "alarm" if alarm else "no alarm"},
                    "whenRange": {"low": _hours(0), "high": _hours(HORIZON_HOURS)},
                    "rationale": f"Hour {hour} since ICU admission; alarm from {threshold:g}.",
                }
            ],
            "note": notes,
        }
        for hour, risk, alarm in rows
    ]


def _hours(number: int) -> Resource:
    return {"value": number, "unit": "h", "system": UCUM, "code": "h"}
