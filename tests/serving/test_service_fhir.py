"""FHIR R4 over HTTP: valid resources with the numbers of the plain answer; refusals are OperationOutcomes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    r4b = pytest.importorskip("fhir.resources.R4B")

FHIR = "application/fhir+json"
ECG, STAY = "/v1/arrhythmia", "/v1/sepsis"
ROWS = [{"ICULOS": hour, "HR": 80 + hour, "Resp": 20, "Temp": 37.5, "SBP": 120, "MAP": 80} for hour in (1, 2)]


def validated(answer: Any, status: int = 200) -> dict[str, Any]:
    """The body, which is one resource as HL7's definitions of R4B have it, with nothing lost."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, FHIR)
    resource = dict(answer.json())
    check(resource)
    return resource


def check(resource: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = r4b.get_fhir_model_class(resource["resourceType"]).model_validate(resource)
        assert json.loads(model.model_dump_json()) == resource
    for entry in resource.get("entry", ()):
        check(entry["resource"])


def test_a_recording_is_a_report_with_the_probabilities_of_the_plain_answer(
    client: Any, ecg_files: list[tuple[str, bytes]]
) -> None:
    plain = client.upload(ECG, *ecg_files)
    answer = client.upload(ECG, *ecg_files, headers={"accept": FHIR})
    bundle = validated(answer)
    assert answer.headers["vary"] == plain.headers["vary"] == "Accept"
    assert [e["resource"]["resourceType"] for e in bundle["entry"]][::27] == ["DiagnosticReport", "Device"]
    found = {
        r["code"]["coding"][0]["code"]: r["valueQuantity"]["value"]
        for r in (entry["resource"] for entry in bundle["entry"])
        if "valueQuantity" in r
    }
    expected = {f["code"]: f["probability"] for f in plain.json()["findings"] if f["evaluable"]}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("form", ["json", "psv"])
def test_a_stay_is_a_risk_assessment_for_each_hour(client: Any, examples: Path, form: str) -> None:
    body = (examples / "stay.psv").read_bytes() if form == "psv" else json.dumps({"rows": ROWS})
    headers = {"content-type": "text/psv" if form == "psv" else "application/json"}
    plain = client.post(STAY, content=body, headers=headers).json()
    bundle = validated(client.post(STAY, content=body, headers=headers | {"accept": FHIR}))
    *risks, device = (entry["resource"] for entry in bundle["entry"])
    assert device["resourceType"] == "Device"
    found = [risk["prediction"][0]["probabilityDecimal"] for risk in risks]
    assert found == pytest.approx([hour["risk"] for hour in plain["hours"]], abs=1e-6)


def test_several_stays_are_a_bundle_with_an_entry_for_each(client: Any) -> None:
    stays = [{"record": "a", "rows": ROWS}, {"record": "b", "rows": [{"ICULOS": 1.5, "HR": 80}]}]
    bundle = validated(client.post(STAY, json={"stays": stays}, headers={"accept": FHIR}))
    scored, refused = (entry["resource"] for entry in bundle["entry"])
    assert (scored["resourceType"], scored["identifier"]["value"]) == ("Bundle", "a")
    assert refused["resourceType"] == "OperationOutcome"
    assert refused["issue"][0]["details"]["coding"] == [{"code": "bad_hour"}]
    again = client.post(STAY, json={"stays": stays}, headers={"accept": FHIR})
    assert again.json() == bundle


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "issue"),
    [
        (STAY, {"rows": [{"ICULOS": 1.5}]}, 422, "bad_hour", "invalid"),
        (STAY, {"stays": 1}, 422, "bad_fields", "invalid"),
        (f"{STAY}?operating_point=x", {"rows": ROWS}, 422, "unknown_operating_point", "invalid"),
        (f"{ECG}?signal=true", {}, 400, "bad_request", "invalid"),
        (f"{STAY}/next", {"rows": ROWS}, 406, "not_acceptable", "not-supported"),
        ("/v1/nothing", {}, 404, "no_such_page", "not-found"),
    ],
)
def test_a_refusal_is_an_operation_outcome(
    client: Any, path: str, body: Any, status: int, code: str, issue: str
) -> None:
    answer = client.post(path, json=body, headers={"accept": FHIR, "x-request-id": "r-1"})
    (found,) = validated(answer, status)["issue"]
    assert (found["details"]["coding"][0]["code"], found["code"]) == (code, issue)
    assert found["diagnostics"] == "request r-1"
    plain = client.post(path, json=body).headers["content-type"]
    assert plain == ("application/json" if status == 406 else "application/problem+json")


def test_an_unknown_format_and_a_missing_token_are_operation_outcomes(
    client: Any, served: Any, client_of: Any
) -> None:
    unknown = client.upload(ECG, ("x.bin", b"\x00\x01"), headers={"accept": FHIR})
    assert validated(unknown, 415)["issue"][0]["code"] == "not-supported"
    locked = client_of(served(token="a token that is long")).post(STAY, json={}, headers={"accept": FHIR})
    assert validated(locked, 401)["issue"][0]["code"] == "login"
    assert locked.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        ("*/*", 200, "application/json"),
        ("application/json", 200, "application/json"),
        ("application/json, application/fhir+json;q=0.5", 200, "application/json"),
        ("application/fhir+json;q=0, */*", 200, "application/json"),
        ("application/fhir+json, */*;q=0.1", 200, FHIR),
        ("Application/FHIR+json; fhirVersion=4.0", 200, FHIR),
        ('application/fhir+xml;q=0.5, application/fhir+json; fhirVersion="4.0"', 200, FHIR),
        ("application/fhir+json; fhirVersion=5.0, application/json;q=0.1", 200, "application/json"),
        ("application/fhir+json; fhirVersion=5.0", 406, "application/problem+json"),
        ("application/fhir+xml", 406, "application/problem+json"),
        ("application/fhir+json; q=much", 200, "application/json"),
        ("", 200, "application/json"),
    ],
)
def test_who_asks_for_fhir(client: Any, accept: str, status: int, kind: str) -> None:
    answer = client.post(STAY, json={"rows": ROWS}, headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (status, kind)
