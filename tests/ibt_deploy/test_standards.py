"""OMOP, MEDS and FHIR give the same stay as the PSV; what does not fit is counted or refused."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.hospital_exports import (
    START,
    fhir_bundle,
    fhir_resources,
    meds_events,
    ndjson,
    observation,
    omop_tables,
    stamp,
)

import ibt_deploy
from ibt_deploy.batch.run import Options, run_batch
from ibt_deploy.errors import InputError
from ibt_deploy.files import MemoryFolder
from ibt_deploy.predictions import Refusal, SepsisPrediction
from ibt_deploy.readers import items_of, read, task_of
from ibt_deploy.records import Stay
from ibt_deploy.standards.events import ASSUMED_NOTE
from ibt_deploy.standards.exports import CUT_NOTE, found_export, opened, standard_of
from ibt_deploy.vocabulary import INDEX, NAMES

duckdb = pytest.importorskip("duckdb")
pytest.importorskip("pint")
MIMIC = [
    ("220045", "bpm"),
    ("220277", "%"),
    ("220179", "mmHg"),
    ("220181", "mmHg"),
    ("220180", "mmHg"),
    ("220210", "insp/min"),
    ("50912", "mg/dL"),
    ("50971", "mEq/L"),
    ("51265", "K/uL"),
    ("50813", "mmol/L"),
]


@pytest.fixture(scope="module")
def psv(root: Path) -> Path:
    return root / "examples" / "stay.psv"


@pytest.fixture(scope="module")
def expected(psv: Path) -> SepsisPrediction:
    answer = ibt_deploy.load("sepsis").predict(psv)
    assert isinstance(answer, SepsisPrediction)
    return answer


def only_stay(path: Any) -> Stay:
    (stay,) = read(path)
    assert isinstance(stay, Stay)
    return stay


def assert_same(path: Any, expected: SepsisPrediction, source_format: str) -> None:
    assert task_of(path) == "sepsis"
    answer = ibt_deploy.load("sepsis").predict(only_stay(path))
    assert isinstance(answer, SepsisPrediction)
    assert answer.format == source_format
    np.testing.assert_array_equal(answer.hours, expected.hours)
    np.testing.assert_allclose(answer.risk, expected.risk, atol=1e-6, rtol=0)
    assert answer.units_stated
    assert not expected.units_stated, "a PSV states no units"


def test_a_fhir_bundle_gives_the_risks_of_the_psv(
    psv: Path, expected: SepsisPrediction, tmp_path: Path
) -> None:
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps(fhir_bundle(psv), indent=1), encoding="utf-8")
    assert_same(path, expected, "FHIR R4")


@pytest.mark.parametrize("zipped", [False, True])
def test_fhir_ndjson_in_memory_gives_the_same(psv: Path, expected: SepsisPrediction, zipped: bool) -> None:
    data = ndjson(fhir_resources(psv)).encode()
    folder = MemoryFolder({"export.ndjson": gzip.compress(data) if zipped else data})
    assert_same(folder / "export.ndjson", expected, "FHIR R4")


def test_meds_shards_give_the_same(psv: Path, expected: SepsisPrediction, tmp_path: Path) -> None:
    events = meds_events(psv)
    (tmp_path / "data" / "train").mkdir(parents=True)
    for number, part in enumerate((events.iloc[:40], events.iloc[40:])):
        part.to_parquet(tmp_path / "data" / "train" / f"{number}.parquet")
    assert_same(tmp_path, expected, "MEDS")


def test_meds_in_memory_gives_the_same(psv: Path, expected: SepsisPrediction, tmp_path: Path) -> None:
    meds_events(psv).to_parquet(tmp_path / "0.parquet")
    folder = MemoryFolder({"0.parquet": (tmp_path / "0.parquet").read_bytes()})
    assert_same(folder / "0.parquet", expected, "MEDS")


@pytest.mark.parametrize("form", ["csv", "parquet", "duckdb"])
def test_omop_gives_the_same(psv: Path, expected: SepsisPrediction, tmp_path: Path, form: str) -> None:
    tables = omop_tables(psv)
    path = tmp_path / "cdm"
    path.mkdir()
    if form == "duckdb":
        path = path / "cdm.duckdb"
        with duckdb.connect(str(path)) as connection:
            connection.execute("CREATE SCHEMA cdm54")
            for name, table in tables.items():
                connection.register("table_frame", table)
                connection.execute(f"CREATE TABLE cdm54.{name} AS SELECT * FROM table_frame")
                connection.unregister("table_frame")
    for name, table in tables.items():
        if form == "csv":
            table.to_csv(path / f"{name.upper()}.csv", index=False)
        elif form == "parquet":
            table.to_parquet(path / f"{name}.parquet")
    assert_same(path, expected, "OMOP CDM")


def test_omop_without_concept_knows_the_commonest(psv: Path, tmp_path: Path) -> None:
    tables = omop_tables(psv)
    known = {
        "HR": 3027018,
        "SBP": 3004249,
        "DBP": 3012888,
        "MAP": 3027598,
        "Resp": 3024171,
        "Creatinine": 3016723,
    }
    places = {
        1000 + n: known[name]
        for n, name in enumerate(tables["concept"]["concept_name"][:34])
        if name in known
    }
    rows = tables["measurement"]
    rows = rows[rows["measurement_concept_id"].isin(places)].assign(
        unit_concept_id=lambda t: np.where(t["measurement_concept_id"] == 1011, 8840, 8876)
    )
    rows["measurement_concept_id"] = rows["measurement_concept_id"].map(places)
    rows.loc[rows["measurement_concept_id"].isin((3027018, 3024171)), "unit_concept_id"] = 8541
    rows.to_csv(tmp_path / "measurement.csv", index=False)
    for name in ("person", "visit_detail"):
        tables[name].to_csv(tmp_path / f"{name}.csv", index=False)
    stay = only_stay(tmp_path)
    found = {NAMES[n] for n in np.flatnonzero(~np.isnan(stay.values).all(axis=0))}
    assert found == {*known, "Age", "Gender", "ICULOS"}


def test_batch_scores_an_export_and_says_what_was_not_mapped(
    psv: Path, expected: SepsisPrediction, tmp_path: Path
) -> None:
    events = pd.concat([meds_events(psv, subject) for subject in (3, 1, 2)])
    stray = events[events["subject_id"] == 1].head(1).assign(code="LAB//999//mg/dL", numeric_value=1.0)
    lonely = meds_events(psv, 9).query("~code.str.startswith('LOINC')")
    (tmp_path / "meds").mkdir()
    pd.concat([events, stray, lonely]).to_parquet(tmp_path / "meds" / "0.parquet")
    (tmp_path / "meds" / "README.md").write_text("hello", encoding="utf-8")
    result = run_batch(Options(sources=[str(tmp_path / "meds")], out=tmp_path / "out", format="jsonl"))
    assert (result.tally.records, result.tally.n_refused) == (3, 1)
    lines = (tmp_path / "out" / "predictions" / "part-00000.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert [answer["record"] for answer in answers] == ["1-1", "2-1", "3-1"]
    np.testing.assert_allclose([hour["risk"] for hour in answers[0]["hours"]], expected.risk, atol=2e-6)
    refused = json.loads((tmp_path / "out" / "refused" / "part-00001.jsonl").read_text(encoding="utf-8"))
    assert (refused["code"], "9-1" in refused["source"]) == ("nothing_mapped", True)
    unmapped = (tmp_path / "out" / "not_mapped.csv").read_text(encoding="utf-8")
    assert unmapped == "code,unit,events,reason\nLAB//999//mg/dL,,1,unknown_code\n"
    tables = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["tables"]
    assert tables["events"]["stays"] == 4
    assert [path.endswith("README.md") for path, _, _ in tables["refused_files"]] == [True]
    again = run_batch(
        Options(sources=[str(tmp_path / "meds")], out=tmp_path / "out", format="jsonl", resume=True)
    )
    assert again.tally.records == 3


def meds_file(
    tmp_path: Path, rows: list[tuple[Any, str, float | None]], start: str = "ICU_ADMISSION//X"
) -> Path:
    frame = pd.DataFrame([(START, start, None), *rows], columns=["time", "code", "numeric_value"])
    frame.insert(0, "subject_id", 1)
    frame["time"] = pd.to_datetime(frame["time"]).astype("datetime64[us]")
    path = tmp_path / "0.parquet"
    frame.to_parquet(path)
    return path


def at(minutes: float) -> Any:
    return START + timedelta(minutes=minutes)


def vitals(minutes: float = 5) -> list[tuple[Any, str, float | None]]:
    """Enough variables for a stay."""
    return [(at(minutes), f"LAB//{item}//{unit}", 20.0) for item, unit in MIMIC]


def test_medians_hours_priorities_and_repeats(tmp_path: Path) -> None:
    rows = [
        *vitals(),
        (at(59.99), "LAB//220045//bpm", 40.0),
        (at(60), "LAB//220045//bpm", 90.0),
        (at(61), "LAB//220045//bpm", 100.0),
        (at(61), "LAB//220045//bpm", 100.0),
        (at(62), "LAB//220045//bpm", 130.0),
        (at(62), "LAB//220050//mmHg", 111.0),
        (at(63), "LAB//220179//mmHg", 150.0),
        (at(-1), "LAB//220045//bpm", 10.0),
        (at(200), "LAB//220045//bpm", None),
    ]
    stay = only_stay(meds_file(tmp_path, rows))
    assert stay.hours.tolist() == [1, 2]
    assert stay.values[:, INDEX["HR"]].tolist() == [30.0, 100.0]
    assert stay.values[:, INDEX["SBP"]].tolist() == [20.0, 111.0]
    report = opened(found_export([tmp_path / "0.parquet"]), tmp_path / "w", source="x").report  # type: ignore[arg-type]
    assert (report.repeated, report.outside, report.without_number) == (1, 1, 2)


def test_few_numbers_are_not_taken_for_items_of_mimic(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read(meds_file(tmp_path, vitals()[:9]))
    assert error.value.code == "nothing_mapped"


def test_parents_in_the_metadata_name_the_code(psv: Path, tmp_path: Path) -> None:
    codes = {"puls": "8867-4", "rr": "9279-1", "sys": "8480-6", "dia": "8462-4", "ph": "2744-1"}
    rows = [(at(5), f"{name}//LAB//{'mmHg' if name in ('sys', 'dia') else ''}", 50.0) for name in codes]
    meds_file(tmp_path, rows)
    (tmp_path / "metadata").mkdir()
    pd.DataFrame(
        {
            "code": [code for _, code, _ in rows],
            "parent_codes": [[f"LOINC/{c}", "X/1"] for c in codes.values()],
        }
    ).to_parquet(tmp_path / "metadata" / "codes.parquet")
    stay = only_stay(tmp_path)
    assert stay.values[0, INDEX["SBP"]] == 50.0


def test_hours_after_two_weeks_are_left_out_and_said(tmp_path: Path) -> None:
    stay = only_stay(meds_file(tmp_path, [*vitals(), *vitals(60 * 400)]))
    assert stay.hours[-1] == 1
    assert CUT_NOTE in stay.notes


def test_an_export_without_intensive_care_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read(meds_file(tmp_path, vitals(), start="HOSPITAL_ADMISSION//X"))
    assert error.value.code == "no_icu_stay"


def test_dates_that_became_midnight_are_refused(tmp_path: Path) -> None:
    midnight = START.replace(hour=0, minute=0) + timedelta(days=1)
    rows = [(midnight, code, value) for _, code, value in vitals()]
    later = [(midnight + timedelta(days=1), code, value) for _, code, value in vitals()]
    with pytest.raises(InputError) as error:
        read(meds_file(tmp_path, [*rows, *later]))
    assert error.value.code == "no_time_of_day"


@pytest.mark.parametrize(
    ("ward", "flags"),
    [
        ("Medical Intensive Care Unit (MICU)", [1.0, 0.0]),
        ("Surgical Intensive Care Unit (SICU)", [0.0, 1.0]),
        ("Medical/Surgical Intensive Care Unit (MICU/SICU)", [np.nan, np.nan]),
        ("Trauma SICU (TSICU)", [np.nan, np.nan]),
        ("Coronary Care Unit (CCU)", [np.nan, np.nan]),
    ],
)
def test_kinds_of_units(tmp_path: Path, ward: str, flags: list[float]) -> None:
    stay = only_stay(meds_file(tmp_path, vitals(), start=f"ICU_ADMISSION//{ward}"))
    np.testing.assert_array_equal(stay.values[0, INDEX["Unit1"] : INDEX["Unit2"] + 1], flags)


def observations(count: int = 6) -> list[dict[str, Any]]:
    names = ["HR", "Resp", "SBP", "DBP", "MAP", "O2Sat", "Temp"][:count]
    return [observation(at(5), name, 40.0) for name in names]


def written(tmp_path: Path, resources: list[dict[str, Any]]) -> Path:
    path = tmp_path / "x.ndjson"
    path.write_text(ndjson(resources), encoding="utf-8")
    return path


def test_without_an_encounter_the_first_measurement_begins_the_stay(tmp_path: Path) -> None:
    later = observation(at(70), "HR", 77.0)
    later["effectiveDateTime"] = stamp(at(70) + timedelta(hours=2), "+02:00")
    stay = only_stay(written(tmp_path, [*observations(), later]))
    assert ASSUMED_NOTE in stay.notes
    assert stay.values[:, INDEX["HR"]].tolist() == [40.0, 77.0]
    assert stay.patient_id == "p1"


def test_components_comparators_states_and_dates(tmp_path: Path) -> None:
    pressure = observation(at(65), "HR", 0.0)
    del pressure["valueQuantity"]
    pressure["code"] = {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]}
    pressure["component"] = [
        {key: observation(at(65), name, value)[key] for key in ("code", "valueQuantity")}
        for name, value in (("SBP", 121.0), ("DBP", 61.0))
    ]
    below = observation(at(66), "Lactate", 0.5)
    below["valueQuantity"]["comparator"] = "<"
    wrong = observation(at(66), "HR", 300.0) | {"status": "entered-in-error"}
    dated = observation(at(66), "HR", 200.0) | {"effectiveDateTime": "2150-03-01"}
    saturation = observation(at(66), "SaO2", 93.0)
    saturation["category"] = [{"coding": [{"code": "vital-signs"}]}]
    gas = observation(at(66), "SaO2", 90.0)
    stay = only_stay(written(tmp_path, [*observations(), pressure, below, wrong, dated, saturation, gas]))
    row = dict(zip(NAMES, stay.values[1], strict=True))
    assert (row["SBP"], row["DBP"], row["O2Sat"], row["SaO2"]) == (121.0, 61.0, 93.0, 90.0)
    assert np.isnan(row["HR"])
    assert np.isnan(row["Lactate"])


def test_a_bundle_refers_by_urn(psv: Path, expected: SepsisPrediction, tmp_path: Path) -> None:
    text = json.dumps(fhir_bundle(psv)).replace("Patient/p1", "urn:uuid:p1")
    bundle = json.loads(text)
    del bundle["entry"][0]["resource"]["id"]
    bundle["entry"][0]["fullUrl"] = "urn:uuid:p1"
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps(bundle), encoding="utf-8")
    assert_same(path, expected, "FHIR R4")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"resourceType": "Bundle", ', "not_json"),
        ('{"resourceType": "Observation"}\n{"resourceType": ', "not_json"),
        ('{"resourceType": "Observation"}\n[1]\n', "not_fhir"),
        ('{"resourceType": "Patient", "id": "1"}', "no_icu_stay"),
    ],
)
def test_damaged_fhir_is_refused(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    (item,) = items_of(path)
    assert isinstance(item, Refusal)
    assert item.code == code


def test_too_few_variables_are_refused(tmp_path: Path) -> None:
    (item,) = items_of(written(tmp_path, observations(3)))
    assert isinstance(item, Refusal)
    assert item.code == "missing_columns"


def test_several_standards_in_one_are_refused(psv: Path, tmp_path: Path) -> None:
    meds_events(psv).to_parquet(tmp_path / "0.parquet")
    written(tmp_path, observations())
    with pytest.raises(InputError) as error:
        found_export(sorted(tmp_path.iterdir()))
    assert error.value.code == "mixed_standards"


def test_omop_without_a_needed_column_is_refused(psv: Path, tmp_path: Path) -> None:
    tables = omop_tables(psv)
    tables["measurement"].drop(columns="value_as_number").to_csv(tmp_path / "measurement.csv", index=False)
    tables["person"].to_csv(tmp_path / "person.csv", index=False)
    (item,) = items_of(tmp_path)
    assert isinstance(item, Refusal)
    assert item.code == "missing_columns"


def test_a_request_of_cds_hooks_is_not_an_export(root: Path) -> None:
    assert standard_of(root / "examples" / "patient-view.json") is None
    assert found_export(sorted((root / "examples").iterdir())) is None
