"""CDS Hooks: the card reports the model's answer, only for intensive care patients with complete data."""

from __future__ import annotations

import copy
import json
import re
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.hospital_exports import START, fhir_resources, ndjson, observation
from hypothesis import HealthCheck, given
from hypothesis import settings as examples_of
from hypothesis import strategies as st

from ibt_deploy.errors import InputError
from ibt_deploy.files import MemoryFolder
from ibt_deploy.readers import read
from ibt_deploy.standards.fhir_observations import patient_stay
from serving.settings import Settings

URL = "/cds-services/ibt-sepsis"
ODD = {"resourceType": "Bundle", "entry": [{"resource": [1]}]}
CATEGORIES = {"info", "warning", "critical"}
"""Of an indicator (https://cds-hooks.hl7.org/2.0/#card-attributes)."""


@pytest.fixture(scope="module")
def request_text(examples: Path) -> str:
    return (examples / "patient-view.json").read_text(encoding="ascii")


@pytest.fixture
def asked(request_text: str) -> dict[str, Any]:
    return dict(json.loads(request_text))


def cards(client: Any, asked: Any) -> list[dict[str, Any]]:
    answer = client.post(URL, json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return list(answer.json()["cards"])


def code(client: Any, asked: Any) -> tuple[int, str]:
    answer = client.post(URL, json=asked)
    return answer.status_code, answer.json()["code"]


def test_the_service_is_found(client: Any) -> None:
    (service,) = client.get("/cds-services").json()["services"]
    assert service["hook"] == "patient-view"
    assert f"/cds-services/{service['id']}" == URL
    assert "not a medical device" in service["description"]
    assert service["prefetch"]["observations"].startswith("Observation?patient={{context.patientId}}")


def test_the_card_has_the_risk_of_the_same_hours_as_psv(
    client: Any, asked: dict[str, Any], examples: Path
) -> None:
    (card,) = cards(client, asked)
    psv = "\n".join((examples / "stay.psv").read_text(encoding="ascii").splitlines()[:4])
    plain = client.post("/v1/sepsis", content=psv, headers={"content-type": "text/psv"}).json()
    last = plain["hours"][-1]
    assert f"{100 * last['risk']:.1f} % in hour 3, " in card["summary"]
    assert f"threshold of {100 * last['threshold']:.1f} %" in card["summary"]
    assert ("at or above" in card["summary"]) == last["alarm"] == (card["indicator"] == "warning")
    assert len(card["summary"]) < 140
    assert card["indicator"] in CATEGORIES
    assert "2026-03-01 20:30 UTC" in card["detail"]
    assert f"Operating point {plain['operating_point']}" in card["detail"]
    assert plain["bundle"]["sha256"] in card["detail"]
    assert "research software, not a medical device" in card["source"]["label"]
    assert "Research software, not a medical device." in card["detail"]
    assert "p17" not in json.dumps(card)


def test_nothing_is_fetched(client: Any, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a request names, no name is looked up and no connection is made."""
    tried: list[Any] = []

    def refuse(*given: Any, **_: Any) -> Any:
        tried.append(given)
        raise OSError("no network")

    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    url = "http://169.254.169.254/latest/meta-data"
    plain = cards(client, asked)
    asked |= {
        "fhirServer": url,
        "fhirAuthorization": {"access_token": "secret", "token_type": "Bearer", "expires_in": 300},
        "extension": {"url": url},
    }
    bundle = asked["prefetch"]["observations"]
    bundle["link"] = [{"relation": "self", "url": url}]
    for entry in bundle["entry"]:
        entry["fullUrl"] = f"{url}/Observation/1"
        entry["resource"]["performer"] = [{"reference": url}]
    asked["prefetch"]["patient"]["photo"] = [{"url": url}]
    assert cards(client, asked) == plain
    bundle["link"].append({"relation": "next", "url": url})
    assert code(client, asked) == (412, "prefetch_incomplete")
    del asked["prefetch"]["observations"]
    assert code(client, asked) == (412, "prefetch_missing")
    assert not tried


def test_a_part_of_the_observations_is_refused(client: Any, asked: dict[str, Any]) -> None:
    bundle = asked["prefetch"]["observations"]
    bundle["entry"].pop()
    assert code(client, asked) == (412, "prefetch_incomplete")
    del bundle["total"]
    assert len(cards(client, asked)) == 1


def test_a_resource_of_another_patient_is_refused(client: Any, asked: dict[str, Any]) -> None:
    for place in ("observations", "encounter", "patient", "nobody"):
        changed = copy.deepcopy(asked)
        if place == "observations":
            changed["prefetch"][place]["entry"][3]["resource"]["subject"] = {"reference": "Patient/p18"}
        elif place == "nobody":
            del changed["prefetch"]["observations"]["entry"][3]["resource"]["subject"]
        elif place == "encounter":
            changed["prefetch"][place]["subject"] = {"reference": "Patient/p18"}
        else:
            changed["prefetch"][place]["id"] = "p18"
        assert code(client, changed) == (422, "wrong_patient")


def test_outside_intensive_care_there_is_no_card(client: Any, asked: dict[str, Any]) -> None:
    ward = copy.deepcopy(asked)
    ward["prefetch"]["encounter"]["location"][0]["location"]["display"] = "Ward 7"
    assert cards(client, ward) == []
    left = copy.deepcopy(asked)
    left["prefetch"]["encounter"]["location"][0]["period"]["end"] = "2026-03-02T08:00:00Z"
    assert cards(client, left) == []
    for nothing in (None, {"resourceType": "Bundle", "type": "searchset", "total": 0}):
        asked["prefetch"]["observations"] = nothing
        assert cards(client, asked) == []


def test_without_an_encounter_the_card_says_what_is_assumed(client: Any, asked: dict[str, Any]) -> None:
    del asked["prefetch"]["encounter"], asked["prefetch"]["patient"]
    (card,) = cards(client, asked)
    assert "No ICU admission is stated" in card["detail"]
    assert "since the first value" in card["detail"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hook": "order-sign"}, (422, "bad_fields")),
        ({"hookInstance": 1}, (422, "bad_fields")),
        ({"context": {"patientId": "Patient/../1"}}, (422, "bad_fields")),
        ({"context": None}, (422, "bad_fields")),
        ({"prefetch": None}, (412, "prefetch_missing")),
        ({"prefetch": {"observations": {"resourceType": "OperationOutcome"}}}, (412, "prefetch_missing")),
        ({"prefetch": {"observations": {"resourceType": "Bundle", "entry": 1}}}, (422, "bad_fields")),
        ({"prefetch": {"observations": ODD}}, (422, "not_fhir")),
        ({"prefetch": {"observations": [], "patient": None}}, (422, "bad_fields")),
    ],
)  # fmt: skip
def test_other_requests_are_refused(
    client: Any, asked: dict[str, Any], change: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert code(client, asked | change) == expected


def test_too_few_and_too_late_values_are_refused(client: Any, asked: dict[str, Any]) -> None:
    late = copy.deepcopy(asked)
    late["prefetch"]["observations"]["entry"][-1]["resource"]["effectiveDateTime"] = "2026-03-20T08:00:00Z"
    assert code(client, late) == (422, "too_long")
    del asked["prefetch"]["observations"]["total"]
    del asked["prefetch"]["observations"]["entry"][4:]
    assert code(client, asked) == (422, "missing_columns")


def test_only_post_json_and_with_the_token(client: Any, served: Any, client_of: Any) -> None:
    assert client.get(URL).status_code == 405
    assert client.post("/cds-services/other", json={}).status_code == 404
    assert client.post(URL, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post(f"{URL}?operating_point=x", json={}).json()["code"] == "bad_request"
    locked = client_of(served(token="a token that is long"))
    assert [locked.get("/cds-services").status_code, locked.post(URL, json={}).status_code] == [401, 401]


def test_a_log_line_holds_nothing_of_the_request(
    client: Any, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cards(client, asked)
    asked["prefetch"]["patient"]["id"] = "p18"
    assert code(client, asked) == (422, "wrong_patient")
    written = capsys.readouterr().err
    assert [json.loads(line)["route"] for line in written.splitlines()] == [URL, URL]
    assert "p17" not in written
    assert "p18" not in written


def test_many_observations_have_room(settings: Settings, client: Any, asked: dict[str, Any]) -> None:
    bundle = asked["prefetch"]["observations"]
    times = 1000 // len(bundle["entry"])
    assert settings.rows >= 1000
    bundle["entry"] = bundle["entry"] * times
    del bundle["total"]
    assert len(cards(client, asked)) == 1


pytest.importorskip("duckdb")


def stay_or_code(call: Callable[[], Any]) -> Any:
    """What is read, or the code with which it is refused."""
    try:
        return call()
    except InputError as error:
        return error.code


EVENTS = st.tuples(
    st.sampled_from(["HR", "Resp", "SBP", "Temp", "O2Sat", "Lactate", "MAP"]),
    st.integers(-90, 60 * 8),
    st.floats(1, 200).map(lambda value: round(value, 1)),
)


@given(st.lists(EVENTS, min_size=1, max_size=40), st.booleans())
@examples_of(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_rules_are_those_of_whole_exports(
    examples: Path, events: list[tuple[str, int, float]], in_icu: bool
) -> None:
    """A Bundle in memory and the same as an export through DuckDB give the same rows."""
    resources = fhir_resources(examples / "stay.psv")[: 4 if in_icu else 1]
    resources += [observation(START + timedelta(minutes=at), name, value) for name, at, value in events]
    expected = stay_or_code(
        lambda: read(MemoryFolder({"x.ndjson": ndjson(resources).encode()}) / "x.ndjson")[0]
    )
    found = stay_or_code(lambda: patient_stay(resources, "p1"))
    if isinstance(expected, str):
        assert found == expected
        return
    np.testing.assert_allclose(found.stay.values, expected.values, rtol=1e-12)
    np.testing.assert_array_equal(found.stay.inserted, expected.inserted)
    assert (found.stay.notes, found.in_icu) == (expected.notes, in_icu)


def test_the_documented_example_is_answered_as_printed(
    root: Path, served: Any, client_of: type[Any], examples: Path
) -> None:
    section = (root / "docs" / "service.md").read_text(encoding="utf-8").partition("## CDS Hooks")[2]
    command = re.search(r"curl -s --json @(\S+) http://127.0.0.1:3000(\S+)", section)
    printed = re.search(r"```json\n(.*?)\n```", section, re.DOTALL)
    assert command is not None
    assert printed is not None
    body = (root / command[1]).read_bytes()
    packaged = client_of(served(sepsis="sepsis"))
    answer = packaged.post(command[2], content=body, headers={"content-type": "application/json"}).json()
    assert answer["cards"][0].pop("detail")
    expected = json.loads(printed[1])
    assert expected["cards"][0].pop("detail") == "..."
    assert answer == expected
    assert packaged.get(f"/{command[1]}").content == body  # the service offers the same file
