from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.bundles import stay, write_psv

from ibt_deploy.cli import main
from ibt_deploy.vocabulary import NAMES
from serving.settings import Settings

ROUTE = "/v1/sepsis"
PSV = {"content-type": "text/psv"}


def rows(hours: int = 6, seed: int = 0) -> list[dict[str, Any]]:
    return [
        {name: None if np.isnan(value) else value for name, value in zip(NAMES, row, strict=True)}
        for row in stay(hours, seed).values.tolist()
    ]


def columns(of: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in of] for name in of[0]}


def test_a_file_is_answered_as_the_command_line_answers_it(
    client: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_psv(tmp_path, stay(30, seed=3))
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(
        main, ["predict", path.name, "--json", "--device", "cpu", "--bundle", settings.sepsis]
    )
    expected = json.loads(told.stdout)
    assert client.upload(ROUTE, (path.name, path.read_bytes())).json() == expected
    raw = client.post(f"{ROUTE}?record={path.stem}", content=path.read_bytes(), headers=PSV).json()
    assert raw["hours"] == expected["hours"]
    assert raw["record"] == path.stem


def test_all_forms_of_json_give_the_same_hours(client: Any) -> None:
    given = rows()
    expected = client.post(ROUTE, json=given).json()
    assert len(expected["hours"]) == 6
    assert expected["input"]["format"] == "JSON"
    for form in ({"rows": given}, {"columns": columns(given)}):
        assert client.post(ROUTE, json=form).json() == expected
    (only,) = client.post(ROUTE, json={"stays": [{"rows": given, "record": "stay"}]}).json()["stays"]
    assert only == expected


def test_numbers_come_through_with_every_bit(client: Any, tmp_path: Path) -> None:
    from ibt_deploy.predictor import load

    whole = stay(12, seed=5)
    bundle = client.app.models.bundles["sepsis"].path
    risk = load(bundle, device="cpu", threads=1).predict(whole).risk  # type: ignore[union-attr]
    answer = client.post(ROUTE, json=rows(12, 5)).json()
    np.testing.assert_array_equal([hour["risk"] for hour in answer["hours"]], np.round(risk, 6))


def test_several_stays_are_answered_one_by_one_and_a_refused_one_costs_only_itself(client: Any) -> None:
    table = [row | {"patient_id": name} for name in ("a", "b") for row in rows(4)]
    table[5]["ICULOS"] = 1.0
    answer = client.post(ROUTE, json=table)
    first, second = answer.json()["stays"]
    assert answer.status_code == 200
    assert (first["record"], len(first["hours"])) == ("a", 4)
    assert (second["refused"], second["code"]) == (True, "doubled_hour")
    text = "\n".join(
        ["patient_id,HR,O2Sat,Temp,SBP,MAP,ICULOS", "x,80,97,37,120,80,1", "y,80,97,37,120,80,1", ""]
    )
    answer = client.post(ROUTE, content=text, headers={"content-type": "text/csv; charset=utf-8"})
    assert [entry["record"] for entry in answer.json()["stays"]] == ["x", "y"]
    listed = client.post(
        ROUTE, json={"stays": [{"rows": rows(3)}, {"rows": [{"HR": 80, "ICULOS": 0}]}]}
    ).json()
    assert [("hours" in entry, entry.get("code")) for entry in listed["stays"]] == [
        (True, None),
        (False, "bad_hour"),
    ]


def test_a_variable_that_is_left_out_is_one_that_was_not_measured(client: Any) -> None:
    given = [{"ICULOS": 1, "HR": 80}, {"ICULOS": 2, "Temp": 38.5}]
    padded = [dict.fromkeys(NAMES) | row for row in given]
    expected = client.post(ROUTE, json=padded).json()
    assert len(expected["hours"]) == 2
    by_columns = {"ICULOS": [1, 2], "HR": [80, None], "Temp": [None, 38.5]}
    for form in (given, {"rows": given}, {"columns": by_columns}, [{"hour": r["ICULOS"]} | r for r in given]):
        assert client.post(ROUTE, json=form).json() == expected
    next_hours = client.post("/v1/sepsis/next", json={"rows": given}).json()["hours"]
    assert next_hours == expected["hours"]


def test_one_patient_in_a_column_is_still_a_list(client: Any) -> None:
    answer = client.post(ROUTE, json=[row | {"patient_id": 7} for row in rows(2)]).json()
    assert [entry["record"] for entry in answer["stays"]] == ["7"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ([], 422, "bad_fields"),
        ({}, 422, "bad_fields"),
        (5, 422, "bad_fields"),
        ("rows", 422, "bad_fields"),
        ({"rows": [], "columns": {}}, 422, "bad_fields"),
        ({"rows": [1]}, 422, "bad_fields"),
        ({"columns": {"HR": [1], "ICULOS": [1, 2]}}, 422, "bad_fields"),
        ({"columns": {"HR": 1}}, 422, "bad_fields"),
        ({"columns": {"HR|x": [1]}}, 422, "unknown_variable"),
        ({"rows": [{"Heart_Rate": 80, "ICULOS": 1}]}, 422, "unknown_variable"),
        ({"rows": [{"HR": "80"}]}, 422, "bad_fields"),
        ({"rows": [{"HR": True}]}, 422, "bad_fields"),
        ({"rows": [{"HR": [80]}]}, 422, "bad_fields"),
        ({"rows": [{"patient_id": "a|b", "HR": 1}]}, 422, "bad_fields"),
        ({"stays": [{"rows": [{"patient_id": "a"}]}]}, 422, "bad_fields"),
        ({"stays": []}, 422, "bad_fields"),
        ({"rows": [{"HR": 80}]}, 422, "missing_hour"),
        ({"rows": [{"hr": 80, "ICULOS": 1}]}, 422, "misspelt_column"),
        ({"rows": [dict.fromkeys(NAMES, 1)] * 2001}, 422, "too_many_rows"),
        ({"rows": [dict.fromkeys(NAMES, 1) | {"HR": 10**400}]}, 400, "bad_json"),
    ],
)
def test_what_json_states_is_checked(client: Any, body: Any, status: int, code: str) -> None:
    answer = client.post(ROUTE, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_tables_that_are_too_long_or_binary_are_refused(client: Any) -> None:
    line = "80|97|37|120|80|"
    long = "\n".join(["HR|O2Sat|Temp|SBP|MAP|ICULOS", *(f"{line}{i}" for i in range(1, 2100)), ""])
    assert client.post(ROUTE, content=long, headers=PSV).json()["code"] in ("too_many_rows", "too_long")
    assert client.post(ROUTE, content="\n" * 50_000, headers=PSV).json()["code"] == "too_many_rows"
    assert client.post(ROUTE, content=b"PAR1" + bytes(100), headers=PSV).status_code == 415
    assert client.upload(ROUTE, ("a.parquet", b"PAR1")).status_code == 415
    assert client.post(ROUTE, content=b"\xff\xfe\x00", headers=PSV).status_code == 422
    assert client.post(ROUTE, content=b"", headers=PSV).status_code == 422


def test_vital_signs_are_added_where_they_are_asked_for(client: Any) -> None:
    rows = [{"ICULOS": 1, "HR": 80, "Resp": 18, "Temp": 37, "SBP": 120, "MAP": 80}, {"ICULOS": 2, "HR": 90.5}]
    plain = client.post("/v1/sepsis", json={"rows": rows}).json()
    answer = client.post("/v1/sepsis?vitals=true", json={"rows": rows}).json()
    vitals = {vital["name"]: vital["values"] for vital in answer.pop("vitals")}
    assert answer == plain
    assert list(vitals) == ["HR", "O2Sat", "Temp", "SBP", "MAP", "DBP", "Resp", "EtCO2"]
    assert (vitals["HR"], vitals["Temp"], vitals["EtCO2"]) == ([80, 90.5], [37, None], [None, None])
    several = {"stays": [{"rows": rows}, {"rows": [{"ICULOS": 1.5}]}]}
    first, second = client.post("/v1/sepsis?vitals=true", json=several).json()["stays"]
    assert first["vitals"][0]["values"] == [80, 90.5]
    assert (second["refused"], "vitals" in second) == (True, False)
    refused = client.post("/v1/sepsis?vitals=true", json={"rows": [{"ICULOS": 1.5}]})
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_hour")
    asked = {"json": {"rows": rows}, "headers": {"accept": "application/fhir+json"}}
    assert client.post("/v1/sepsis?vitals=true", **asked).status_code == 400


def test_an_explanation_is_that_of_the_command_line(
    client: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_psv(tmp_path, stay(30, seed=3))
    monkeypatch.chdir(tmp_path)
    asked = ["predict", path.name, "--json", "--explain", "--device", "cpu"]
    told = CliRunner().invoke(main, [*asked, "--bundle", settings.sepsis])
    answer = client.upload(f"{ROUTE}?explain=true", (path.name, path.read_bytes())).json()
    assert answer == json.loads(told.stdout)
    (explanation,) = answer["explanations"]
    assert [part["start"] for part in explanation["time"]] == list(range(1, 31))
    both = client.upload(f"{ROUTE}?explain=true&vitals=true", (path.name, path.read_bytes())).json()
    assert len(both.pop("vitals")) == 8
    assert both == answer


def test_every_stay_is_explained_but_a_refused_one(client: Any) -> None:
    several = {"stays": [{"rows": rows(4)}, {"rows": [{"ICULOS": 1.5}]}, {"rows": rows(6, seed=1)}]}
    first, refused, last = client.post(f"{ROUTE}?explain=true", json=several).json()["stays"]
    assert [len(stay["explanations"][0]["time"]) for stay in (first, last)] == [4, 6]
    assert (refused["refused"], "explanations" in refused) == (True, False)
    alone = client.post(f"{ROUTE}?explain=true", json={"rows": rows(6, seed=1)}).json()
    assert alone["explanations"] == last["explanations"]
    fhir = {"accept": "application/fhir+json"}
    assert client.post(f"{ROUTE}?explain=true", json=rows(), headers=fhir).status_code == 400


@pytest.mark.parametrize(("hours", "explained"), [((169,), [0]), ((100, 100, 100, 90), [1, 1, 0, 1])])
def test_more_hours_than_can_be_explained_are_scored(
    client: Any, hours: tuple[int, ...], explained: list[int]
) -> None:
    asked = {"json": {"stays": [{"rows": rows(n)} for n in hours]}}
    scored = client.post(ROUTE, **asked).json()["stays"]
    found = client.post(f"{ROUTE}?explain=true", **asked).json()["stays"]
    assert [stay["hours"] for stay in found] == [stay["hours"] for stay in scored]
    assert [len(stay["explanations"]) for stay in found] == explained
    assert ["not_explained" not in stay for stay in found] == list(map(bool, explained))


def test_one_stay_of_several_is_answered_alone(client: Any) -> None:
    asked = {
        "json": {"stays": [{"rows": rows(100)}, {"rows": [{"ICULOS": 1.5}]}, {"rows": rows(168, seed=1)}]}
    }
    together = client.post(ROUTE, **asked).json()["stays"]
    alone = client.post(f"{ROUTE}?only=3&explain=true", **asked).json()
    assert (alone["hours"], len(alone["explanations"])) == (together[2]["hours"], 1)
    refused = client.post(f"{ROUTE}?only=2", **asked)
    assert (refused.status_code, refused.json()["code"]) == (422, together[1]["code"])


@pytest.mark.parametrize("place", ["0", "2", "-1", "1.0", "", "one", "9" * 5000])
def test_a_place_without_a_stay_is_refused(client: Any, place: str) -> None:
    refused = client.post(f"{ROUTE}?only={place}", json={"rows": rows(2)})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")
