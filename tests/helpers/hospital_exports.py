"""The example stay as hospitals would export it: FHIR R4, OMOP CDM and MEDS."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

START = datetime(2150, 3, 1, 18, 20)
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
    "FiO2": ("3150-0", "1"),
    "pH": ("2744-1", "[pH]"),
    "PaCO2": ("2019-8", "mm[Hg]"),
    "Lactate": ("2524-7", "mmol/L"),
    "BaseExcess": ("1925-7", "mmol/L"),
    "SaO2": ("2708-6", "%"),
    "Phosphate": ("2777-1", "mg/dL"),
    "AST": ("1920-8", "U/L"),
    "Alkalinephos": ("6768-6", "U/L"),
    "EtCO2": ("19891-1", "mm[Hg]"),
    "Bilirubin_direct": ("1968-7", "mg/dL"),
    "TroponinI": ("10839-9", "ng/mL"),
    "Fibrinogen": ("3255-7", "mg/dL"),
}
"""Written by hand, not read from the package."""


def measured(psv: Path) -> list[tuple[datetime, str, float]]:
    """Time, variable and value of every measurement of a stay; those of an hour lie within it."""
    rows = pd.read_csv(psv, sep="|")
    found = []
    for place, row in rows.iterrows():
        hour = START + timedelta(hours=float(row["ICULOS"]) - 1, minutes=1 + int(str(place)) % 57)
        found += [(hour, name, float(row[name])) for name in LOINC if pd.notna(row[name])]
    return found


def constants(psv: Path) -> pd.Series[Any]:
    """Age, Gender, Unit1, Unit2 and HospAdmTime."""
    return pd.read_csv(psv, sep="|").iloc[0]


def admission(psv: Path) -> datetime:
    """When the patient came to the hospital."""
    return START + timedelta(hours=float(constants(psv)["HospAdmTime"]))


def birth(psv: Path) -> datetime:
    """A birthday that makes the patient as old as the file says, to within days."""
    return START - timedelta(days=365.25 * float(constants(psv)["Age"]))


def stamp(time: datetime, offset: str = "Z") -> str:
    return time.isoformat() + offset


def observation(time: datetime, name: str, value: float) -> dict[str, Any]:
    code, unit = LOINC[name]
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": stamp(time),
        "valueQuantity": {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit},
    }


def fhir_resources(psv: Path) -> list[dict[str, Any]]:
    """Patient, Location, Encounters and Observations."""
    stay = constants(psv)
    end = START + timedelta(days=20)
    return [
        {
            "resourceType": "Patient",
            "id": "p1",
            "gender": "male" if stay["Gender"] == 1 else "female",
            "birthDate": birth(psv).date().isoformat(),
        },
        {"resourceType": "Location", "id": "l1", "name": "Medical Intensive Care Unit (MICU)"},
        {
            "resourceType": "Encounter",
            "id": "h1",
            "status": "in-progress",
            "class": {"code": "IMP"},
            "subject": {"reference": "Patient/p1"},
            "period": {"start": stamp(admission(psv))},
        },
        {
            "resourceType": "Encounter",
            "id": "e1",
            "status": "in-progress",
            "class": {"code": "ACUTE"},
            "subject": {"reference": "Patient/p1"},
            "partOf": {"reference": "Encounter/h1"},
            "period": {"start": stamp(START), "end": stamp(end)},
            "location": [{"location": {"reference": "Location/l1"}}],
        },
        *(observation(*event) for event in measured(psv)),
    ]


def fhir_bundle(psv: Path) -> dict[str, Any]:
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": resource} for resource in fhir_resources(psv)],
    }


def ndjson(resources: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(resource) + "\n" for resource in resources)


def omop_tables(psv: Path) -> dict[str, pd.DataFrame]:
    """The tables of OMOP CDM with one patient; concepts are numbers of our own, which CONCEPT explains."""
    stay = constants(psv)
    names = list(LOINC)
    units = sorted({unit for _, unit in LOINC.values()})
    measurement = pd.DataFrame(
        [
            {
                "measurement_id": number,
                "person_id": 7,
                "measurement_concept_id": 1000 + names.index(name),
                "measurement_date": time.date().isoformat(),
                "measurement_datetime": time.isoformat(sep=" "),
                "measurement_type_concept_id": 32817,
                "operator_concept_id": 4172703,
                "value_as_number": value,
                "unit_concept_id": 5000 + units.index(LOINC[name][1]),
                "unit_source_value": "as the device says",
            }
            for number, (time, name, value) in enumerate(measured(psv))
        ]
    )
    born = birth(psv)
    concept = pd.DataFrame(
        [
            {
                "concept_id": 1000 + n,
                "concept_name": name,
                "vocabulary_id": "LOINC",
                "concept_code": LOINC[name][0],
            }
            for n, name in enumerate(names)
        ]
        + [
            {"concept_id": 5000 + n, "concept_name": unit, "vocabulary_id": "UCUM", "concept_code": unit}
            for n, unit in enumerate(units)
        ]
    )
    common = {"person_id": 7, "visit_occurrence_id": 70}
    return {
        "measurement": measurement,
        "person": pd.DataFrame(
            [
                {
                    "person_id": 7,
                    "gender_concept_id": 8507 if stay["Gender"] == 1 else 8532,
                    "year_of_birth": born.year,
                    "month_of_birth": born.month,
                    "day_of_birth": born.day,
                }
            ]
        ),
        "visit_occurrence": pd.DataFrame(
            [
                {
                    **common,
                    "visit_concept_id": 9201,
                    "visit_start_datetime": admission(psv).isoformat(sep=" "),
                    "visit_end_datetime": (START + timedelta(days=30)).isoformat(sep=" "),
                }
            ]
        ),
        "visit_detail": pd.DataFrame(
            [
                {
                    **common,
                    "visit_detail_id": 700 + n,
                    "visit_detail_concept_id": 32037,
                    "visit_detail_start_datetime": (START + timedelta(days=n)).isoformat(sep=" "),
                    "visit_detail_end_datetime": (START + timedelta(days=n + 1)).isoformat(sep=" "),
                    "care_site_id": 3,
                }
                for n in range(9)
            ]
        ),
        "care_site": pd.DataFrame([{"care_site_id": 3, "care_site_name": "Medical ICU"}]),
        "concept": concept,
    }


def meds_events(psv: Path, subject: int = 7) -> pd.DataFrame:
    """MEDS events with codes of LOINC."""
    stay = constants(psv)
    end = START + timedelta(days=20)
    rows: list[tuple[datetime | None, str, float | None]] = [
        (birth(psv), "MEDS_BIRTH", None),
        (None, "GENDER//M" if stay["Gender"] == 1 else "GENDER//F", None),
        (admission(psv), "HOSPITAL_ADMISSION//EW EMER.", None),
        (START, "ICU_ADMISSION//Medical Intensive Care Unit (MICU)", None),
        *((time, f"LOINC//{LOINC[name][0]}//{LOINC[name][1]}", value) for time, name, value in measured(psv)),
        (end, "ICU_DISCHARGE//Medical Intensive Care Unit (MICU)", None),
        (end, "HOSPITAL_DISCHARGE//HOME", None),
    ]
    frame = pd.DataFrame(rows, columns=["time", "code", "numeric_value"])
    frame.insert(0, "subject_id", subject)
    frame["time"] = pd.to_datetime(frame["time"]).astype("datetime64[us]")
    return frame
