"""Make ``patient-view.json``: a request of CDS Hooks with the first hours of ``stay.psv`` as FHIR R4.

python examples/make_patient_view.py
"""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HOURS = 3
START = datetime(2026, 3, 1, 18, tzinfo=UTC)
PATIENT = {"reference": "Patient/p17"}
LOINC = {
    "HR": ("8867-4", "/min"),
    "O2Sat": ("59408-5", "%"),
    "Temp": ("8310-5", "Cel"),
    "SBP": ("8480-6", "mm[Hg]"),
    "MAP": ("8478-0", "mm[Hg]"),
    "DBP": ("8462-4", "mm[Hg]"),
    "Resp": ("9279-1", "/min"),
    "HCO3": ("1963-8", "mmol/L"),
    "BUN": ("3094-0", "mg/dL"),
    "Calcium": ("17861-6", "mg/dL"),
    "Chloride": ("2075-0", "mmol/L"),
    "Creatinine": ("2160-0", "mg/dL"),
    "Glucose": ("2345-7", "mg/dL"),
    "Magnesium": ("19123-9", "mg/dL"),
    "Potassium": ("2823-3", "mmol/L"),
    "Bilirubin_total": ("1975-2", "mg/dL"),
    "Hct": ("4544-3", "%"),
    "Hgb": ("718-7", "g/dL"),
    "PTT": ("3173-2", "s"),
    "WBC": ("6690-2", "10*3/uL"),
    "Platelets": ("777-3", "10*3/uL"),
}


def stamp(hours: float) -> str:
    """Time of an hour of the stay."""
    return (START + timedelta(hours=hours)).isoformat(timespec="seconds").replace("+00:00", "Z")


def observation(name: str, hour: int, value: float) -> dict[str, Any]:
    """One measurement, in the middle of its hour."""
    code, unit = LOINC[name]
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": PATIENT,
        "effectiveDateTime": stamp(hour - 0.5),
        "valueQuantity": {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit},
    }


def request() -> dict[str, Any]:
    """The body of ``POST /cds-services/ibt-sepsis``."""
    with (HERE / "stay.psv").open(newline="", encoding="ascii") as file:
        rows = list(csv.DictReader(file, delimiter="|"))[:HOURS]
    observations = [
        observation(name, int(row["ICULOS"]), float(row[name]))
        for row in rows
        for name in LOINC
        if row[name] != "NaN"
    ]
    return {
        "hook": "patient-view",
        "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "context": {"userId": "Practitioner/1", "patientId": "p17", "encounterId": "e17"},
        "prefetch": {
            "patient": {
                "resourceType": "Patient",
                "id": "p17",
                "gender": "male" if rows[0]["Gender"] == "1" else "female",
                "birthDate": str(START.year - int(rows[0]["Age"])),
            },
            "encounter": {
                "resourceType": "Encounter",
                "id": "e17",
                "status": "in-progress",
                "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
                "subject": PATIENT,
                "period": {"start": stamp(float(rows[0]["HospAdmTime"]))},
                "location": [
                    {
                        "location": {"reference": "Location/l1", "display": "Medical ICU"},
                        "period": {"start": stamp(0)},
                    }
                ],
            },
            "observations": {
                "resourceType": "Bundle",
                "type": "searchset",
                "total": len(observations),
                "entry": [{"resource": found, "search": {"mode": "match"}} for found in observations],
            },
        },
    }


if __name__ == "__main__":
    text = json.dumps(request(), indent=1) + "\n"
    for folder in (HERE, HERE.parent / "serving" / "examples"):
        (folder / "patient-view.json").write_text(text, encoding="ascii")
