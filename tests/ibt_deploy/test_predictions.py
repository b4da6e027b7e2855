from __future__ import annotations

import io
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers.bundles import NOT_EVALUABLE, recording, stay, write_ecg_bundle

from ibt_deploy.decisions import ANY
from ibt_deploy.predictions import NOTICE, Refusal, SepsisPrediction
from ibt_deploy.predictor import Predictor, load
from ibt_deploy.render.plot import figure_of
from ibt_deploy.render.prediction import CsvWriter, prediction_report
from ibt_deploy.render.report import plain_text
from ibt_deploy.standards.fhir_answers import fhir_resource
from ibt_deploy.types import PARTS, Part
from ibt_deploy.vocabulary import CLASSES, INDEX, NAMES


def test_findings_as_json_are_complete(ecg: Predictor) -> None:
    prediction = ecg.predict(recording(23.0))
    found = json.loads(json.dumps(prediction.to_dict(), allow_nan=False))
    assert found["record"] == "r0"
    assert found["task"] == "arrhythmia"
    assert found["bundle"] == {
        "name": "tiny-arrhythmia",
        "version": "0.0.1",
        "sha256": ecg.bundle.sha256,
        "variant": "fp32",
    }
    assert (found["device"], found["operating_point"]) == ("cpu", "challenge")
    assert found["input"]["sampling_rate"] == 500
    assert found["input"]["duration"] == 23
    assert "resampled from 500 to 200 Hz" in found["input"]["changes"]
    assert [f["code"] for f in found["findings"]] == [c.code for c in CLASSES]
    for finding in found["findings"]:
        assert 0 <= finding["probability"] <= 1
        assert 0 < finding["threshold"] <= 1
        assert finding["evaluable"] == (finding["abbreviation"] not in NOT_EVALUABLE)
        reaches = finding["probability"] >= finding["threshold"] and finding["evaluable"]
        assert finding["positive"] == reaches
    windows = np.array([w["probabilities"] for w in found["windows"]])
    expected = np.where(ANY, windows.max(axis=0), windows.mean(axis=0))
    np.testing.assert_allclose(expected, [f["probability"] for f in found["findings"]], atol=2e-6)
    for finding, of_class in zip(found["findings"], windows.T, strict=True):
        starts = [w["start"] for w in found["windows"]]
        assert finding["windows"] == {
            "reached": int((of_class >= finding["threshold"]).sum()),
            "share": pytest.approx((of_class >= finding["threshold"]).mean(), abs=1e-6),
            "highest": of_class.max(),
            "highest_at": starts[int(of_class.argmax())],
        }
    assert found["notice"] == NOTICE


def test_an_exclusive_operating_point_names_alternatives_or_nothing(tmp_path: Path) -> None:
    def edit(contract: dict[str, Any]) -> None:
        contract["calibration"] = {"kind": "platt", "slope": [1e-9] * 26, "intercept": [-3.0] * 26}
        for name in ("NSR", "AF", "LAD"):
            c = [entry.abbreviation for entry in CLASSES].index(name)
            contract["calibration"]["intercept"][c] = {"NSR": 1.0, "AF": 0.5, "LAD": 0.5}[name]
        for name, threshold in (("clinical", 0.5), ("silent", 0.9)):
            contract["operating_points"][name] = {
                "thresholds": [threshold] * 26,
                "description": "",
                "exclusive": True,
            }

    bundle = write_ecg_bundle(tmp_path, edit)
    found = load(bundle, operating_point="clinical").predict(recording())
    status = {f["abbreviation"]: f["status"] for f in found.to_dict()["findings"]}
    assert (status["NSR"], status["AF"], status["LAD"]) == ("positive", "alternative", "positive")
    assert not {f.abbreviation for f in found.findings if f.positive} & {"AF"}  # type: ignore[union-attr]
    text = plain_text(prediction_report(found))
    assert "NSR 0.73, LAD 0.62; or AF 0.62" in text
    silent = load(bundle, operating_point="silent").predict(recording())
    assert not silent.positive.any()  # type: ignore[union-attr]
    assert "no finding reaches its threshold" in plain_text(prediction_report(silent))


def test_risk_as_json_is_complete(stays: Predictor) -> None:
    inserted = np.zeros(12, dtype=bool)
    inserted[5] = True
    given = stay(12)
    values = given.values.copy()
    values[:, INDEX["Lactate"]] = np.nan
    values[5, : INDEX["ICULOS"]] = np.nan
    values[:, INDEX["ICULOS"]] += 4
    prediction = stays.predict(stay(12, values=values, inserted=inserted))
    found = json.loads(json.dumps(prediction.to_dict(), allow_nan=False))
    assert isinstance(prediction, SepsisPrediction)
    assert [h["hour"] for h in found["hours"]] == list(range(5, 17))
    assert found["input"]["first_hour"] == 5
    never = [n for n, v in zip(NAMES, np.isnan(values).all(axis=0), strict=True) if v]
    assert "Lactate" in never
    assert found["input"]["never_measured"] == never
    assert [h["inserted"] for h in found["hours"]] == inserted.tolist()
    assert found["hours"][5]["missing"] == [n for n in NAMES if n != "ICULOS"]
    for row, hour in zip(values, found["hours"], strict=True):
        assert hour["alarm"] == (hour["risk"] >= hour["threshold"])
        assert set(hour["missing"]) >= {n for n, v in zip(NAMES, row, strict=True) if np.isnan(v)}
    assert [w["code"] for w in found["warnings"]].count("hours_inserted") == 1
    assert found["notice"] == NOTICE


def test_implausible_values_count_as_missing(stays: Predictor) -> None:
    values = stay(12).values.copy()
    values[3, INDEX["HR"]] = 900.0
    found = stays.predict(stay(12, values=values)).to_dict()
    assert "HR" in found["hours"][3]["missing"]
    assert any(w["code"] == "values_out_of_range" for w in found["warnings"])


def test_a_refusal_has_a_reason_for_machines_and_people() -> None:
    found = Refusal("a.hea", "too_short", "a.hea: 3.0 s of signal").to_dict()
    assert found == {
        "source": "a.hea",
        "refused": True,
        "code": "too_short",
        "message": "a.hea: 3.0 s of signal",
    }


@pytest.mark.parametrize("hours", [1, 336])
def test_shortest_and_longest_stay(stays: Predictor, hours: int) -> None:
    assert len(stays.predict(stay(hours)).to_dict()["hours"]) == hours


def test_an_answer_says_in_which_units_a_stay_was_read(stays: Predictor) -> None:
    values = np.full((5, len(NAMES)), np.nan)
    values[:, INDEX["ICULOS"]] = np.arange(1, 6)
    values[:, INDEX["HR"]] = 80
    values[:, INDEX["Temp"]] = [36.5, 37, np.nan, 38, 37.5]
    values[[0, 2, 3], INDEX["BUN"]] = [36.4, 14, 5000]
    found = stays.predict(stay(5, values=values))
    assert isinstance(found, SepsisPrediction)
    read = found.to_dict()["input"]
    assert read["units_stated"] is False
    # HR has only one unit; 5000 is implausible and was not read
    assert read["read_as"] == [
        {"variable": "Temp", "unit": "degC", "median": 37.25, "lowest": 36.5, "highest": 38.0},
        {"variable": "BUN", "unit": "mg/dL", "median": 25.2, "lowest": 14.0, "highest": 36.4},
    ]
    assert (
        "not stated; read as BUN 25.2 (14 to 36.4) mg/dL of nitrogen, "
        "the others in the units of the Challenge 2019" in plain_text(prediction_report(found))
    )
    assert "HR" not in plain_text(prediction_report(found)).partition("read as")[2].partition("\n")[0]


def test_units_that_the_source_states_are_not_assumed(stays: Predictor) -> None:
    found = stays.predict(stay(5, units_stated=True))
    assert found.to_dict()["input"]["units_stated"] is True
    text = plain_text(prediction_report(found))
    assert "as the source states them" in text
    assert "read as" not in text


class OtherRisk(SepsisPrediction):
    """The prediction of a task that this package does not have."""

    task: ClassVar[Any] = "other"


def test_a_further_task_is_shown_by_its_line_in_parts_alone(
    stays: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = stays.predict(stay())
    other = OtherRisk(**{field.name: getattr(found, field.name) for field in fields(found)})
    own = replace(PARTS["sepsis"], csv_columns=("x",), csv_cells=Part("records:plausible_age"))
    monkeypatch.setitem(PARTS, other.task, own)
    assert plain_text(prediction_report(other)) == plain_text(prediction_report(found))
    assert fhir_resource(other) == fhir_resource(found)
    assert len(figure_of(stay(), other).axes) == len(figure_of(stay(), found).axes)
    stream = io.StringIO()
    CsvWriter(stream, other.task)
    assert stream.getvalue() == "record,x,bundle,version,sha256,variant,operating_point,device\n"
