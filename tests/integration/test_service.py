"""The service over a network: as documented, and equal to the command line."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.served import await_ready, upload

from ibt_deploy.variables import NAMES

RECORDS = int(os.environ.get("IBT_TEST_RECORDS", "12"))
"""Real recordings, and as many stays, that are compared; 200 for the figure in docs/service.md."""


@pytest.mark.parametrize(
    "header", [b"X-Long: " + b"a" * 2**20, b"\r\n".join([b"X-Many: " + b"a" * 1000] * 2000)]
)
def test_a_head_without_end_is_refused(service: str, header: bytes) -> None:
    host, port = service.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n" + header + b"\r\n\r\n")
            answer = connection.recv(1000)
        except ConnectionError:  # closed while there was still more to send
            answer = b""
    assert not answer or (answer.startswith(b"HTTP/1.1 431 ") and b'"code": "head_too_large"' in answer)
    assert httpx.get(f"{service}/livez").status_code == 200


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_http_is_a_problem(service: str, sent: bytes) -> None:
    host, port = service.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        answer = b""
        while piece := connection.recv(1000):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    problem = json.loads(body)
    assert problem["code"] == "bad_request"
    assert f"x-request-id: {problem['request_id']}".encode() in head


def first_block(page: Path) -> str:
    found = re.search(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


def test_the_quick_start_works_as_printed(root: Path, tmp_path: Path) -> None:
    if "serve" not in {entry.name for entry in entry_points(group="ibt.commands")}:
        pytest.skip("'ibt serve' is no entry point of the installed package; install it again")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 3000)) == 0:
            pytest.skip("something else listens on port 3000")
    block = first_block(root / "docs" / "service.md")
    commands = [line for line in block.splitlines() if line and not line.startswith("pip ")]
    (tmp_path / "examples").symlink_to(root / "examples")
    process = subprocess.Popen(
        ["bash", "-ec", "\n".join(commands)],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        shown = b""
        while not shown.endswith(b"}\n}\n") and (line := process.stdout.readline()):
            shown += line
            if line == b"}\n":
                break
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    answer = json.loads(shown)
    assert answer["record"] == "recording"
    assert len(answer["findings"]) == 26
    if (root / "README.md").read_text(encoding="utf-8").count("ibt serve"):
        for command in commands:
            assert command in (root / "README.md").read_text(encoding="utf-8")


def test_every_documented_command_works_as_pasted(service: str, tmp_path: Path) -> None:
    document = httpx.get(f"{service}/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            command = operation["x-codeSamples"][0]["source"].replace("http://127.0.0.1:3000", service)
            ran = subprocess.run(["bash", "-ec", command], cwd=tmp_path, capture_output=True, text=True)
            assert ran.returncode == 0, f"{path}: {ran.stderr}"
            assert "urn:ibt:problem" not in ran.stdout
            if path.startswith("/v1") and not path.endswith("card"):
                json.loads(ran.stdout)


def comparable(value: Any) -> Any:
    """An answer without its probabilities, which are compared within 1e-6."""
    if isinstance(value, dict):
        return {
            k: comparable(v) for k, v in value.items() if k not in ("probability", "probabilities", "risk")
        }
    return [comparable(entry) for entry in value] if isinstance(value, list) else value


def probabilities(value: Any) -> list[float]:
    if isinstance(value, dict):
        own = [value[k] for k in ("probability", "risk") if k in value]
        return own + [p for v in value.values() for p in probabilities(v)]
    return [p for entry in value for p in probabilities(entry)] if isinstance(value, list) else []


def assert_equal(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert comparable(answers) == comparable(expected)
    mine, theirs = probabilities(answers), probabilities(expected)
    assert len(mine) == len(theirs) > len(expected)
    # one unit of the last decimal that is given
    assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) < 1.001e-6


def test_real_recordings_are_answered_as_the_command_line_answers_them(
    service: str, shared: Path, root: Path
) -> None:
    folder = shared / "data" / "ecg"
    with (folder / "index.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    headers = [folder / row["file"] for row in rows[:: max(1, len(rows) // RECORDS)][:RECORDS]]
    headers = [path if path.suffix == ".hea" else path.with_suffix(".hea") for path in headers]
    told = _predicted(headers)
    answers = []
    with httpx.Client(base_url=service, timeout=60) as session:
        for header in headers:
            lines = header.read_text(encoding="utf-8").splitlines()
            signals = dict.fromkeys(
                line.split()[0] for line in lines[1:] if line and not line.startswith("#")
            )
            names = [header.name, *(name for name in signals if (header.parent / name).is_file())]
            answer = session.post(
                "/v1/arrhythmia",
                files=[("files", (name, (header.parent / name).read_bytes())) for name in names],
            )
            if answer.status_code == 200:
                answers.append(answer.json())
            else:
                answers.append({"refused": answer.json()["code"]})
    assert_equal(answers, [told[header] for header in headers])


def test_real_stays_are_answered_as_the_command_line_answers_them(
    service: str, shared: Path, tmp_path: Path
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pc = pytest.importorskip("pyarrow.compute")
    source = shared / "data" / "p19" / "p19.parquet"
    patients = pc.unique(pq.read_table(source, columns=["patient_id"]).column(0)).to_pylist()
    chosen = patients[:: max(1, len(patients) // RECORDS)][:RECORDS]
    found = pq.read_table(
        source, columns=["patient_id", *NAMES], filters=pc.field("patient_id").isin(chosen)
    ).to_pylist()
    files = []
    for patient in chosen:
        rows = ["|".join(_cell(row[name]) for name in NAMES) for row in found if row["patient_id"] == patient]
        files.append(tmp_path / f"{patient}.psv")
        files[-1].write_text("\n".join(["|".join(NAMES), *rows, ""]), encoding="utf-8")
    told = _predicted(files)
    answers = []
    with httpx.Client(base_url=service, timeout=60) as session:
        for file in files:
            answer = session.post("/v1/sepsis", files=[("files", (file.name, file.read_bytes()))])
            answers.append(answer.json() if answer.status_code == 200 else {"refused": answer.json()["code"]})
    assert_equal(answers, [told[file] for file in files])


def _cell(value: float | None) -> str:
    return "NaN" if value is None or value != value else repr(value)


def _predicted(files: list[Path]) -> dict[Path, dict[str, Any]]:
    """What the command line says to each file; ``source`` is the plain name, as in an upload."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "from ibt_deploy.cli import main; main()",
            "predict",
            "--json",
            "--device",
            "cpu",
        ]
        + [str(file) for file in files],
        capture_output=True,
        text=True,
    )
    found: dict[Path, dict[str, Any]] = {}
    for line in told.stdout.splitlines():
        answer = json.loads(line)
        source = Path(answer["input"]["source"])
        answer["input"]["source"] = source.name
        found[source] = answer
    for line in told.stderr.splitlines():
        refused = re.fullmatch(r"ibt: refused: (.*?)(?:, patient .*?)?: .* \[(\w+)\]", line)
        if refused:
            found[Path(refused[1])] = {"refused": refused[2]}
    return found


@pytest.mark.slow
def test_a_bento_is_built_and_serves(root: Path, tmp_path: Path) -> None:
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    environment = os.environ | {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    built = subprocess.run(
        [bentoml, "build", "-f", "serving/bentofile.yaml", "-o", "tag", "."],
        cwd=root, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (folder,) = (path for path in (tmp_path / "home" / "bentos" / "ibt").iterdir() if path.is_dir())
    assert (folder / "env" / "docker" / "Dockerfile").is_file()
    assert (folder / "src" / "ibt_deploy" / "bundles" / "sepsis" / "model.onnx").is_file()
    assert not list(folder.rglob("training"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [bentoml, "serve", f"ibt:{folder.name}", "--host", "127.0.0.1", "--port", str(port)],
        cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        await_ready(process, address)
        files = upload(root, "recording.hea", "recording.dat")
        answer = httpx.post(f"{address}/v1/arrhythmia", files=files, timeout=30)
        assert answer.json()["record"] == "recording"
        assert httpx.get(f"{address}/schema.json").status_code == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
