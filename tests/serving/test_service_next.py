from __future__ import annotations

import base64
import json
import time
from typing import Any

import numpy as np
import pytest
from helpers.bundles import stay

from ibt_deploy.vocabulary import NAMES

ROUTE = "/v1/sepsis/next"


def row(values: Any) -> dict[str, float]:
    return {name: v for name, v in zip(NAMES, values.tolist(), strict=True) if not np.isnan(v)}


def test_hour_by_hour_equals_the_whole_stay(client: Any) -> None:
    whole = stay(20, seed=2)
    expected = client.post("/v1/sepsis", json=[row(values) for values in whole.values]).json()
    state, hours = None, []
    for values in whole.values:
        answer = client.post(ROUTE, json={"rows": [row(values)], "state": state}).json()
        state = answer["state"]
        hours += answer["hours"]
    assert [hour["alarm"] for hour in hours] == [hour["alarm"] for hour in expected["hours"]]
    np.testing.assert_allclose(
        [hour["risk"] for hour in hours], [hour["risk"] for hour in expected["hours"]], atol=1.5e-6
    )
    assert [hour["missing"] for hour in hours] == [hour["missing"] for hour in expected["hours"]]
    assert answer["warnings"] == expected["warnings"]
    assert answer["bundle"] == expected["bundle"]


def test_hour_by_hour_in_int8_equals_the_whole_stay_in_int8(served: Any, client_of: Any) -> None:
    client, whole = client_of(served(sepsis="sepsis", precision="int8")), stay(12, seed=3)
    expected = client.post("/v1/sepsis", json=[row(values) for values in whole.values]).json()
    assert expected["bundle"]["variant"] == "int8"
    state, hours = None, []
    for values in whole.values:
        answer = client.post(ROUTE, json={"rows": [row(values)], "state": state}).json()
        state = answer["state"]
        hours += answer["hours"]
    assert answer["bundle"] == expected["bundle"]
    np.testing.assert_allclose(
        [hour["risk"] for hour in hours], [hour["risk"] for hour in expected["hours"]], atol=1e-4
    )


def test_bytes_in_place_of_base64_give_the_same_answers(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr("serving.score.next_hour.time.time", lambda: now)
    headers = {"content-type": "application/vnd.ibt.next"}
    whole, text, raw = stay(6, seed=7), None, b""
    for values in whole.values:
        expected = client.post(ROUTE, json={"rows": [row(values)], "state": text}).json()
        body = json.dumps({"rows": [row(values)]}).encode() + b"\n" + raw
        answer = client.post(ROUTE, content=body, headers=headers)
        line, _, raw = answer.content.partition(b"\n")
        text = expected.pop("state")
        assert answer.headers["content-type"] == headers["content-type"]
        assert json.loads(line) == expected
        assert base64.b64decode(text) == raw
    for wrong in (raw[:-1], raw + b"x", b"\n", b"{}"):
        answer = client.post(ROUTE, content=body.partition(b"\n")[0] + b"\n" + wrong, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_state")


def test_hours_that_are_left_out_are_inserted_as_in_a_file(client: Any) -> None:
    whole = stay(8, seed=4)
    kept = [row(values) for i, values in enumerate(whole.values) if i not in (3, 4)]
    expected = client.post("/v1/sepsis", json=kept).json()
    first = client.post(ROUTE, json={"rows": kept[:3]}).json()
    second = client.post(ROUTE, json={"rows": kept[3:], "state": first["state"]}).json()
    hours = [*first["hours"], *second["hours"]]
    assert [(h["hour"], h["inserted"]) for h in hours] == [
        (h["hour"], h["inserted"]) for h in expected["hours"]
    ]
    np.testing.assert_allclose(
        [h["risk"] for h in hours], [h["risk"] for h in expected["hours"]], atol=1.5e-6
    )


def test_a_state_serves_more_than_once_and_under_any_operating_point(client: Any) -> None:
    values = stay(3).values
    state = client.post(ROUTE, json={"rows": [row(values[0])]}).json()["state"]
    body = {"rows": [row(values[1])], "state": state}
    first, second = (client.post(ROUTE, json=body).json() for _ in range(2))
    assert first | {"state": ""} == second | {"state": ""}  # a state holds a timestamp
    points = client.app.models.bundles["sepsis"].operating_points
    for point in points:
        answer = client.post(f"{ROUTE}?operating_point={point}", json=body).json()
        assert answer["operating_point"] == point


def test_a_state_of_one_record_is_not_accepted_for_another(client: Any) -> None:
    values = stay(3).values
    state = client.post(ROUTE, json={"rows": [row(values[0])], "record": "A"}).json()["state"]
    body = {"rows": [row(values[1])], "state": state}
    answer = client.post(ROUTE, json=body | {"record": "A"})
    assert (answer.status_code, answer.json()["record"]) == (200, "A")
    for other in ({"record": "B"}, {"record": "stay"}, {}):
        answer = client.post(ROUTE, json=body | other)
        assert (answer.status_code, answer.json()["code"]) == (422, "wrong_record")
    nameless = client.post(ROUTE, json={"rows": [row(values[0])]}).json()["state"]
    answer = client.post(ROUTE, json={"rows": [row(values[1])], "state": nameless, "record": "A"})
    assert answer.json()["code"] == "wrong_record"


def test_an_old_state_is_refused(served: Any, client_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(served(state_seconds=3600))
    values = stay(3).values
    body = {"rows": [row(values[1])]}
    now = time.time()
    for age, status in ((3500, 200), (3700, 422)):
        with monkeypatch.context() as clock:
            clock.setattr("serving.score.next_hour.time.time", lambda age=age: now - age)
            state = client.post(ROUTE, json={"rows": [row(values[0])]}).json()["state"]
        answer = client.post(ROUTE, json=body | {"state": state})
        assert answer.status_code == status
    assert answer.json()["code"] == "state_expired"


def test_keys_are_rotated_without_ending_stays(served: Any, client_of: Any) -> None:
    old, new = "the key of last month", "the key of this month"
    values = stay(3).values
    state = client_of(served(state_key=old)).post(ROUTE, json={"rows": [row(values[0])]}).json()["state"]
    both = client_of(served(state_key=f"{new}\n{old}\n"))
    after = both.post(ROUTE, json={"rows": [row(values[1])], "state": state})
    assert after.status_code == 200
    only_new = client_of(served(state_key=new))
    body = {"rows": [row(values[2])]}
    assert only_new.post(ROUTE, json=body | {"state": after.json()["state"]}).status_code == 200
    assert only_new.post(ROUTE, json=body | {"state": state}).json()["code"] == "bad_state"


def altered(state: str, place: int) -> str:
    content = bytearray(base64.b64decode(state))
    content[place] ^= 1
    return base64.b64encode(content).decode()


def test_a_state_that_is_not_ours_is_refused(client: Any, served: Any, client_of: Any) -> None:
    values = stay(3).values
    state = client.post(ROUTE, json={"rows": [row(values[0])]}).json()["state"]
    foreign = client_of(served(state_key="another key of the service")).post(
        ROUTE, json={"rows": [row(values[0])]}
    )
    size = len(base64.b64decode(state))
    for wrong in (
        *(altered(state, place) for place in (0, 4, 5, 40, 60, size // 2, size - 1)),
        state[:-40],
        state[: len(state) // 2 // 4 * 4],
        state + state,
        foreign.json()["state"],
        "",
        "no base64!",
        "é",
        7,
        ["x"],
    ):
        answer = client.post(ROUTE, json={"rows": [row(values[1])], "state": wrong})
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_state")


def test_rows_that_do_not_follow_are_refused(client: Any) -> None:
    values = stay(3).values
    state = client.post(ROUTE, json={"rows": [row(values[1])]}).json()["state"]
    for rows, code in (
        ([row(values[1])], "hours_out_of_order"),
        ([row(values[0])], "hours_out_of_order"),
        ([], "bad_fields"),
        ([{"HR": 80}], "missing_hour"),
        ([{"ICULOS": 400, "HR": 80}], "too_long"),
        ([{"ICULOS": 3, "patient_id": "x"}], "bad_fields"),
    ):
        answer = client.post(ROUTE, json={"rows": rows, "state": state})
        assert (answer.status_code, answer.json()["code"]) == (422, code)


@pytest.mark.parametrize("hours", [1, 335])
def test_a_state_is_compact(client: Any, hours: int) -> None:
    rows = [row(values) for values in stay(hours).values]
    answer = client.post(ROUTE, json={"rows": rows}).json()
    assert len(answer["state"]) < 1000 + hours * 9000
