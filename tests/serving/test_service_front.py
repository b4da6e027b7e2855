from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

STAY = "/v1/sepsis"
TOKEN = "a token that is long"


def test_request_ids_are_passed_on_or_made(client: Any) -> None:
    assert client.get("/livez", headers={"x-request-id": "abc.1-2_3"}).headers["x-request-id"] == "abc.1-2_3"
    for foul in ("a b", "x" * 65, "é".encode(), "<script>"):
        made = client.get("/livez", headers={"x-request-id": foul}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)


def test_every_answer_forbids_what_pages_do_not_need(client: Any) -> None:
    for path in ("/", "/docs", "/v1/models", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/v1/models").headers["cache-control"] == "no-store"


def test_a_token_is_asked_for_where_there_is_one(served: Any, client_of: Any) -> None:
    app = served(token=TOKEN)
    for headers in (
        {}, {"Authorization": TOKEN}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
    ):  # fmt: skip
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            answer = client_of(app, **headers).get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorised")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in answer.text
    knows = client_of(app, Authorization=f"Bearer {TOKEN}")
    assert knows.get("/v1/models").status_code == 200
    assert client_of(app, authorization=f"bearer {TOKEN}").get("/metrics").status_code == 200
    for open_to_all in ("/livez", "/readyz", "/", "/docs", "/openapi.json"):
        assert client_of(app).get(open_to_all).status_code == 200


def test_a_log_line_tells_the_course_and_not_the_content(
    client: Any, ecg_files: list[tuple[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = [("Mustermann.hea", ecg_files[0][1].replace(b"recording ", b"Mustermann ")), ecg_files[1]]
    assert client.upload("/v1/arrhythmia", *renamed).status_code == 200
    client.upload("/v1/arrhythmia", ("Mustermann.hea", b"Mustermann"), headers={"x-request-id": "r-1"})
    client.post("/v1/sepsis?record=Mustermann", json={"rows": [{"Mustermann": 1}]})
    client.get("/v1/Mustermann")
    written = capsys.readouterr().err
    lines = list(map(json.loads, written.splitlines()))
    assert [(line["route"], line["status"], line.get("code")) for line in lines] == [
        ("/v1/arrhythmia", 200, None),
        ("/v1/arrhythmia", 422, "bad_header"),
        ("/v1/sepsis", 422, "unknown_variable"),
        ("unknown", 404, "no_such_page"),
    ]
    assert lines[1]["id"] == "r-1"
    assert {"time", "event", "id", "method", "route", "status", "ms", "received", "sent"} <= lines[0].keys()
    assert "Mustermann" not in written


@pytest.mark.parametrize("hosts", [[], [b""], [b"a", b"a"]])
def test_a_request_has_exactly_one_host(app: Any, hosts: list[bytes]) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/livez", "query_string": b"", "http_version": "1.1",
        "headers": [(b"host", host) for host in hosts],
    }  # fmt: skip
    asyncio.run(app(dict(scope), receive, send))
    assert sent[0]["status"] == 400
    sent.clear()
    asyncio.run(app(scope | {"http_version": "1.0"}, receive, send))
    assert sent[0]["status"] == 200


def test_a_log_line_has_the_trace_of_its_caller(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    for parent in (f"00-{trace}-00f067aa0ba902b7-01", "00-Mustermann-00f067aa0ba902b7-01", ""):
        client.get("/v1/models", headers={"traceparent": parent})
    lines = list(map(json.loads, capsys.readouterr().err.splitlines()))
    assert [line.get("trace") for line in lines] == [trace, None, None]


def test_an_unforeseen_error_is_a_problem_without_its_message(
    served: Any, client_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import serving.score.routes

    def fails(*_: Any) -> None:
        raise ZeroDivisionError("secret of a patient")

    monkeypatch.setattr(serving.score.routes, "from_json", fails)
    answer = client_of(served()).post(STAY, json=[])
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text


def test_a_draining_service_finishes_and_begins_nothing(served: Any, client_of: Any) -> None:
    app = served()
    app.drain.begun = True
    client = client_of(app)
    for answer in (client.get("/readyz"), client.post(STAY, json=[])):
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        assert answer.headers["connection"] == "close"
    assert client.get("/livez").status_code == 200


def test_figures_count_requests_by_route_and_reason(client: Any) -> None:
    def count(name: str, text: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    name = 'ibt_refusals_total{code="bad_json",route="/v1/sepsis"}'
    before = count(name, client.get("/metrics").text)
    client.post(STAY, content=b"{", headers={"content-type": "application/json"})
    answer = client.get("/metrics")
    assert count(name, answer.text) == before + 1
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'ibt_requests_total{method="POST",route="/v1/sepsis",status="400"}' in answer.text
    assert "ibt_model{" in answer.text


def test_methods_and_addresses_that_there_are_not(client: Any) -> None:
    answer = client.get("/v1/sepsis")
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (
        405,
        "method_not_allowed",
        "POST",
    )
    for path in (
        "/v1",
        "/v1/",
        "/v2/sepsis",
        "/page",
        "/examples/..%2f..%2fpyproject.toml",
        "/app.py",
        "/%00",
    ):
        assert client.get(path).json()["code"] == "no_such_page"
    assert client("HEAD", "/livez").status_code == 200
    assert client("PROPFIND", "/").status_code == 405


def test_models_and_their_cards(client: Any) -> None:
    models = {model["task"]: model for model in client.get("/v1/models").json()["models"]}
    assert set(models) == {"arrhythmia", "sepsis"}
    assert models["arrhythmia"]["operating_points"]["challenge"]["thresholds"] == [0.4] * 26
    assert "not a medical device" in models["sepsis"]["notice"]
    assert client.get("/v1/models/other/card").status_code == 404
    assert "/tmp" not in client.get("/v1/models").text
