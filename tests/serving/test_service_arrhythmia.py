from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.bundles import recording, write_header

from ibt_deploy.cli import main
from ibt_deploy.readers import read
from ibt_deploy.records import Recording
from serving.settings import Settings

File = tuple[str, bytes]
ROUTE = "/v1/arrhythmia"


def stated(examples: Path, **changes: Any) -> dict[str, Any]:
    (found,) = read(examples / "recording.hea")
    assert isinstance(found, Recording)
    return {
        "signal": found.signal.tolist(),
        "sampling_rate": found.sampling_rate,
        "leads": list(found.leads),
        "unit": "mV",
    } | changes


def numbers(answer: dict[str, Any]) -> list[Any]:
    return [answer["findings"], answer["windows"]]


def test_an_upload_is_answered_as_the_command_line_answers_the_file(
    client: Any, settings: Settings, examples: Path, ecg_files: list[File], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(examples)
    told = CliRunner().invoke(
        main, ["predict", "recording.hea", "--json", "--device", "cpu", "--bundle", settings.arrhythmia]
    )
    answer = client.upload(ROUTE, *ecg_files)
    assert answer.status_code == 200
    assert answer.json() == json.loads(told.stdout)


def test_the_order_of_the_files_is_all_one(client: Any, ecg_files: list[File]) -> None:
    assert client.upload(ROUTE, *reversed(ecg_files)).json() == client.upload(ROUTE, *ecg_files).json()


def test_packed_files_are_unpacked(client: Any, ecg_files: list[File]) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in ecg_files:
            archive.writestr(f"folder/{name}", content)
    squeezed = [(f"{name}.gz", gzip.compress(content)) for name, content in ecg_files]
    expected = client.upload(ROUTE, *ecg_files).json()
    assert client.upload(ROUTE, ("record.zip", packed.getvalue())).json() == expected
    assert client.upload(ROUTE, *squeezed).json() == expected


def test_json_is_answered_as_the_file(client: Any, examples: Path, ecg_files: list[File]) -> None:
    answer = client.post(ROUTE, json=stated(examples, record="r1")).json()
    assert numbers(answer) == numbers(client.upload(ROUTE, *ecg_files).json())
    assert (answer["record"], answer["input"]["format"]) == ("r1", "JSON")


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1000.0), ("V", 0.001)])
def test_units_are_converted_and_noted(client: Any, examples: Path, unit: str, factor: float) -> None:
    body = stated(examples)
    scaled = (np.array(body["signal"]) * factor).tolist()
    answer = client.post(ROUTE, json=body | {"signal": scaled, "unit": unit}).json()
    expected = client.post(ROUTE, json=body).json()
    np.testing.assert_allclose(
        [f["probability"] for f in answer["findings"]],
        [f["probability"] for f in expected["findings"]],
        atol=1e-6,
    )
    assert f"converted from {unit} to mV" in answer["input"]["changes"]


def test_a_compressed_body_is_the_same_body(client: Any, examples: Path) -> None:
    body = json.dumps(stated(examples)).encode()
    headers = {"content-type": "application/json"}
    packed = client.post(ROUTE, content=gzip.compress(body), headers=headers | {"content-encoding": "gzip"})
    assert packed.json() == client.post(ROUTE, content=body, headers=headers).json()


def test_the_operating_point_is_chosen_by_the_query(client: Any, ecg_files: list[File]) -> None:
    answer = client.upload(f"{ROUTE}?operating_point=strict", *ecg_files).json()
    assert answer["operating_point"] == "strict"
    assert {f["threshold"] for f in answer["findings"]} == {0.999999}
    refused = client.upload(f"{ROUTE}?operating_point=none", *ecg_files)
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_operating_point")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"unit": "mm"}, "unknown_unit"),
        ({"unit": None}, "bad_fields"),
        ({"sampling_rate": 0}, "bad_fields"),
        ({"sampling_rate": True}, "bad_fields"),
        ({"sampling_rate": 499.7}, "non_integer_rate"),
        ({"leads": ["I", "II"]}, "bad_fields"),
        ({"signal": [[1.0, "2"]] * 12}, "bad_fields"),
        ({"signal": [[1.0, True]] * 12}, "bad_fields"),
        ({"signal": [[1.0]] * 11 + [[1.0, 2.0]]}, "bad_fields"),
        ({"signal": [[0.1] * 1000] * 12}, "too_short"),
        ({"record": "../../etc/passwd"}, "bad_fields"),
        ({"patient": "x"}, "bad_fields"),
        ({"sampling_rate": 50}, "record_too_long"),
    ],
)
def test_what_json_states_is_checked(client: Any, examples: Path, changes: dict[str, Any], code: str) -> None:
    answer = client.post(ROUTE, json=stated(examples, **changes))
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_uploads_that_are_not_one_recording_are_refused(client: Any, ecg_files: list[File]) -> None:
    header, signal = ecg_files
    for files, code in (
        ([header], "missing_signal_file"),
        ([header, ("other.hea", header[1]), signal], "no_recording"),
        ([signal, ("more.dat", signal[1])], "no_recording"),
        ([("stay.psv", b"HR|O2Sat|Temp|SBP|MAP|ICULOS\n80|97|37|120|80|1\n")], "wrong_task"),
    ):
        answer = client.upload(ROUTE, *files)
        assert (answer.status_code, answer.json()["code"]) == (422, code)
    unknown = client.upload(ROUTE, ("photo.jpg", b"\xff\xd8\xff\xe0" + bytes(100)))
    assert (unknown.status_code, unknown.json()["code"]) == (415, "unsupported_format")


def test_an_explanation_is_that_of_the_command_line(
    client: Any, settings: Settings, examples: Path, ecg_files: list[File], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(examples)
    asked = ["predict", "recording.hea", "--json", "--explain", "--device", "cpu"]
    told = CliRunner().invoke(main, [*asked, "--bundle", settings.arrhythmia])
    answer = client.upload(f"{ROUTE}?explain=true", *ecg_files).json()
    assert answer == json.loads(told.stdout)
    assert [len(e["time"]) for e in answer["explanations"]] == [20] * len(answer["explanations"])
    assert "explanations" not in client.upload(f"{ROUTE}?signal=true", *ecg_files).json()


def test_a_long_recording_is_not_explained(client: Any, tmp_path: Path) -> None:
    header = write_header(tmp_path, recording(61.0, seed=1))
    files = [(path.name, path.read_bytes()) for path in (header, header.with_suffix(".dat"))]
    scored = client.upload(ROUTE, *files).json()
    answer = client.upload(f"{ROUTE}?explain=true", *files).json()
    assert answer.pop("explanations") == []
    assert "more than 60 s" in answer.pop("not_explained")
    assert answer == scored
