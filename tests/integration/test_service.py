"""The service over a network: as documented, and equal to the command line."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from helpers.served import await_ready, running, upload

from ibt_deploy.vocabulary import NAMES
from serving.api import examples

RECORDS = int(os.environ.get("IBT_TEST_RECORDS", "12"))
"""Real recordings, and as many stays, that are compared; 200 for the figure in docs/service.md."""


def exchanged(service: str, *pieces: bytes, shut: bool = False) -> bytes:
    """What is answered on a connection of its own, until it is closed; what cannot be sent is left out."""
    host, port = service.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        with suppress(ConnectionError):  # closed while there was still more to send
            for piece in pieces:
                connection.sendall(piece)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while piece := connection.recv(65536):
                answer += piece
    return answer


def resident(process: int) -> int:
    """Bytes that a process and its children hold."""
    psutil = pytest.importorskip("psutil")
    top = psutil.Process(process)
    return sum(each.memory_info().rss for each in (top, *top.children(recursive=True)))


@pytest.mark.parametrize(
    "header", [b"X-Long: " + b"a" * 2**20, b"\r\n".join([b"X-Many: " + b"a" * 1000] * 2000)]
)
def test_a_head_without_end_is_refused(service: str, header: bytes) -> None:
    answer = exchanged(service, b"GET /livez HTTP/1.1\r\nHost: a\r\n" + header + b"\r\n\r\n")
    assert not answer or answer.startswith(b"HTTP/1.1 431 ")
    assert httpx.get(f"{service}/livez").status_code == 200


def test_refusals_are_problems(service: str) -> None:
    for path, content, status, code in (
        ("/v1/sepsis", b"{", 400, "bad_json"),
        ("/v1/sepsis/next", b'{"rows": [{"ICULOS": 0}]}', 422, "bad_hour"),
        ("/v1/arrhythmia", b"{}", 422, "bad_fields"),
        ("/sepsis", b'{"rows": [], "rows": []}', 400, "bad_json"),
        ("/sepsis", b'{"rows": [{"hr": 1}]}', 422, "bad_fields"),
        ("/sepsis", b'{"rows": [{"ICULOS": 0}]}', 422, "bad_hour"),
        ("/sepsis", b'{"rows": [{"ICULOS": 1}], "operating_point": "x"}', 422, "unknown_operating_point"),
        ("/sepsis_next", b'{"rows": [{"ICULOS": 1}], "state": "x"}', 422, "bad_state"),
        ("/arrhythmia", b'{"signal": [[1]]}', 422, "bad_fields"),
        ("/arrhythmia", b"[" * 100_000, 413, "body_too_large"),
        ("/nothing", b"", 404, "no_such_page"),
    ):
        answer = httpx.post(f"{service}{path}", content=content, headers={"content-type": "application/json"})
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status_code, answer.json()["code"]) == (status, code), path
        assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_an_address_without_end_is_refused(service: str) -> None:
    answer = exchanged(service, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 414 ")


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n"]
)
def test_what_is_not_http_is_refused(service: str, sent: bytes) -> None:
    assert exchanged(service, sent).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("start", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: a\r\nX: "])
def test_a_head_may_take_ten_seconds(service: str, start: bytes) -> None:
    began = time.monotonic()
    assert not exchanged(service, start)
    assert 5 < time.monotonic() - began < 18


@pytest.mark.parametrize("method", [b"GET /livez", b"POST /v1/sepsis"])
def test_trailers_do_not_fill_the_memory(root: Path, method: bytes) -> None:
    with running(root) as (process, address):
        before = resident(process.pid)
        head = (
            method
            + b" HTTP/1.1\r\nHost: a\r\nContent-Type: text/psv\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        )
        exchanged(address, method + head, *[b"a: b\r\n" * 11_000] * 320)  # 20 MiB
        assert resident(process.pid) - before < 24 * 2**20
        assert httpx.get(f"{address}/livez").status_code == 200


@pytest.mark.parametrize("route", [b"/v1/sepsis", b"/sepsis", b"/v1/arrhythmia"])
def test_a_connection_with_endless_trailers_is_closed(service: str, route: bytes) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    kind = b"multipart/form-data; boundary=x" if b"arrhythmia" in route else b"application/json"
    began = time.monotonic()
    answer = exchanged(service, head % (route, kind), b"a: b\r\n" * 11_000)
    assert time.monotonic() - began < 10
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n"])
def test_a_request_names_one_host(service: str, hosts: bytes) -> None:
    answer = exchanged(service, b"GET /livez HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


ROWS = b'{"rows": [{"ICULOS": 1, "HR": 80}]}'


def test_a_client_that_offers_http_2_keeps_its_body(service: str) -> None:
    """As Java's HttpClient does by default over http."""
    upgrade = (
        b"POST /v1/sepsis/next HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    )
    assert exchanged(service, upgrade % (len(ROWS), ROWS)).startswith(b"HTTP/1.1 200 ")


JAVA = """
import java.net.URI; import java.net.http.*; import java.net.http.HttpRequest.BodyPublishers;
public class Ask { public static void main(String[] a) throws Exception {
  var request = HttpRequest.newBuilder(URI.create(a[0])).header("Content-Type", "application/json")
      .POST(BodyPublishers.ofString(a[1])).build();
  var client = HttpClient.newHttpClient();
  for (int i = 0; i < 2; i++)
    System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
} }
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java here")
def test_java_is_answered(service: str, tmp_path: Path) -> None:
    (tmp_path / "Ask.java").write_text(JAVA)
    asked = [str(tmp_path / "Ask.java"), f"{service}/v1/sepsis/next", ROWS.decode()]
    ran = subprocess.run(["java", *asked], capture_output=True, text=True, timeout=120)
    assert ran.stdout.split() == ["200", "200"], ran.stderr


def test_a_client_that_closes_its_side_is_taken_as_gone(service: str) -> None:
    head = b"POST /v1/sepsis/next HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    exchanged(service, head, b"Content-Length: %d\r\n\r\n%s" % (len(ROWS), ROWS), shut=True)
    assert httpx.get(f"{service}/livez").status_code == 200


def test_requests_that_were_aborted_leave_the_queue(root: Path) -> None:
    files = upload(root, "recording.hea", "recording.dat")
    body = httpx.Request("POST", "http://a/v1/arrhythmia", files=files)
    content = body.read()
    head = b"POST /v1/arrhythmia HTTP/1.1\r\nHost: a\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (
        body.headers["content-type"].encode(),
        len(content),
    )
    with running(root, "--workers", "1", "--threads", "1", "--queue", "8") as (_, address):
        host, port = address.removeprefix("http://").split(":")
        for _ in range(60):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(head + content)
                time.sleep(0.003)  # a quarter of what an answer takes
        time.sleep(1)
        answers = [httpx.post(f"{address}/v1/arrhythmia", files=files, timeout=60) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        figures = httpx.get(f"{address}/metrics").text
        assert "ibt_requests_queued 0.0" in figures
        scored = re.findall(r"^ibt_batch_requests_sum\S* (\S+)", figures, re.MULTILINE)
        assert 3 <= float(scored[0]) < 40, "most were computed though nobody waited"
        assert 'route="/v1/arrhythmia",status="499"' in figures


def test_decompression_does_not_stop_the_event_loop(root: Path) -> None:
    """Empty gzip members, each of which costs a new decompressor, from four clients at once."""
    import gzip

    members = gzip.compress(b"") * (8 * 2**20 // len(gzip.compress(b"")))
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    with running(root, "--workers", "1", "--threads", "1") as (_, address):
        refused: list[int] = []

        def ask() -> None:
            answer = httpx.post(f"{address}/v1/sepsis", content=members, headers=headers, timeout=60)
            refused.append(answer.status_code)

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        waits = []
        while any(thread.is_alive() for thread in asking):
            began = time.perf_counter()
            assert httpx.get(f"{address}/livez", timeout=30).status_code == 200
            waits.append(time.perf_counter() - began)
        assert refused == [400] * 4
        assert sorted(waits)[len(waits) // 2] < 1.0


def first_block(page: Path) -> str:
    found = re.search(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


def test_the_quick_start_works_as_printed(root: Path, tmp_path: Path) -> None:
    if "serve" not in {entry.name for entry in entry_points(group="ibt.commands")}:
        pytest.skip("'ibt serve' is not an entry point of the installed package; install it again")
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


@pytest.mark.parametrize(
    ("section", "key", "value"), [("## FHIR", "resourceType", "Bundle"), ("## CDS Hooks", "cards", None)]
)
def test_commands_of_the_guide_work_as_pasted(
    service: str, root: Path, section: str, key: str, value: str | None
) -> None:
    text = (root / "docs" / "service.md").read_text(encoding="utf-8").partition(section)[2]
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    command = block[1].replace("http://127.0.0.1:3000", service)
    ran = subprocess.run(["bash", "-ec", command], cwd=root, capture_output=True, text=True, check=True)
    answer = json.loads(ran.stdout)
    assert answer[key]
    assert value is None or answer[key] == value


PROBABILITIES = ("probability", "risk", "highest")


def comparable(value: Any) -> Any:
    """An answer without its probabilities, which are compared within 1e-6."""
    if isinstance(value, dict):
        return {k: comparable(v) for k, v in value.items() if k not in (*PROBABILITIES, "probabilities")}
    return [comparable(entry) for entry in value] if isinstance(value, list) else value


def probabilities(value: Any) -> list[float]:
    if isinstance(value, dict):
        own = [value[k] for k in PROBABILITIES if k in value]
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
    expected = _predicted(headers)
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
    assert_equal(answers, [expected[header] for header in headers])


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
    expected = _predicted(files)
    answers = []
    with httpx.Client(base_url=service, timeout=60) as session:
        for file in files:
            answer = session.post("/v1/sepsis", files=[("files", (file.name, file.read_bytes()))])
            answers.append(answer.json() if answer.status_code == 200 else {"refused": answer.json()["code"]})
    assert_equal(answers, [expected[file] for file in files])


def _cell(value: float | None) -> str:
    return "NaN" if value is None or value != value else repr(value)


def _predicted(files: list[Path]) -> dict[Path, dict[str, Any]]:
    """What the command line says to each file; ``source`` is the plain name, as in an upload."""
    ran = subprocess.run(
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
    for line in ran.stdout.splitlines():
        answer = json.loads(line)
        source = Path(answer["input"]["source"])
        answer["input"]["source"] = source.name
        found[source] = answer
    for line in ran.stderr.splitlines():
        refused = re.fullmatch(r"ibt: refused: (.*?)(?:, patient .*?)?: .* \[(\w+)\]", line)
        if refused:
            found[Path(refused[1])] = {"refused": refused[2]}
    return found


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # bentoml
@pytest.mark.parametrize("name", ["SyncHTTPClient", "AsyncHTTPClient"])
def test_clients_of_bentoml_are_answered_as_the_routes_answer(service: str, name: str) -> None:
    import bentoml

    kind = getattr(bentoml, name)
    recording = examples.recording()
    rows = examples.rows(0, 3)

    async def ask() -> list[Any]:
        if name == "AsyncHTTPClient":
            async with kind(service) as client:
                return [
                    await client.arrhythmia(**recording),
                    await client.sepsis(rows=rows, record="p1"),
                    await client.sepsis_next(rows=rows[:1], record="p1"),
                ]
        with kind(service) as client:
            return [
                client.arrhythmia(**recording),
                client.sepsis(rows=rows, record="p1"),
                client.sepsis_next(rows=rows[:1], record="p1"),
            ]

    found = asyncio.run(ask())
    expected = [
        httpx.post(f"{service}/v1/arrhythmia", json=recording).json(),
        httpx.post(f"{service}/v1/sepsis", json={"rows": rows, "record": "p1"}).json(),
        httpx.post(f"{service}/v1/sepsis/next", json={"rows": rows[:1], "record": "p1"}).json(),
    ]
    for answer, same in zip(found, expected, strict=True):
        answer.pop("state", None), same.pop("state", None)
        assert answer == same | {name: None for name in answer if name not in same}


def test_bentoml_answers_its_own_routes(service: str) -> None:
    schema = httpx.get(f"{service}/schema.json").json()
    assert {route["name"] for route in schema["routes"]} == {"arrhythmia", "sepsis", "sepsis_next"}
    paths = httpx.get(f"{service}/docs.json").json()["paths"]
    assert {"/arrhythmia", "/sepsis", "/sepsis_next"} <= paths.keys()
    for probe in ("healthz", "livez", "readyz"):
        assert httpx.get(f"{service}/{probe}").status_code == 200
    figures = httpx.get(f"{service}/metrics").text
    assert 'bentoml_service_request_total{endpoint="/readyz",http_response_code="200"' in figures


def test_no_figure_names_an_address_that_was_made_up(service: str) -> None:
    httpx.get(f"{service}/Mustermann")
    httpx.get(f"{service}/v1/models/Mustermann/card")
    assert "Mustermann" not in httpx.get(f"{service}/metrics").text


def test_no_method_fetches_an_address(service: str) -> None:
    """A file field of BentoML would: none of the methods has one, so an address is only a wrong value."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with HTTPServer(("127.0.0.1", 0), Handler) as inside:
        threading.Thread(target=inside.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{inside.server_port}/secret"
        for method, names in {
            "arrhythmia": ("signal", "sampling_rate", "leads", "unit", "record", "operating_point"),
            "sepsis": ("rows", "record", "operating_point"),
            "sepsis_next": ("rows", "state", "record", "operating_point"),
        }.items():
            for name in names:
                assert httpx.post(f"{service}/{method}", json={name: address}).status_code == 422
                form = httpx.post(f"{service}/{method}", data={name: address})
                files = httpx.post(f"{service}/{method}", files={name: (None, address)})
                assert (form.status_code, files.status_code) == (415, 415)
            raw = {"content-type": "application/vnd.bentoml+pickle"}
            assert httpx.post(f"{service}/{method}", content=b"x", headers=raw).status_code == 415
        inside.shutdown()
    assert not asked


@contextmanager
def bentoml_serves(
    root: Path, folder: Path, target: str, **environment: str
) -> Iterator[tuple[Any, str, Path]]:
    """The process of ``bentoml serve``, its address, and the file of all that it says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    said = folder / "said"
    with said.open("wb") as stream:
        process = subprocess.Popen(
            [bentoml, "serve", target, "--host", "127.0.0.1", "--port", str(port)],
            cwd=root, env=os.environ | environment, stderr=stream, stdout=stream,
        )  # fmt: skip
        try:
            await_ready(process, f"http://127.0.0.1:{port}")
            yield process, f"http://127.0.0.1:{port}", said
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            process.wait()


def test_bentoml_serve_works_and_reports_nothing(root: Path, tmp_path: Path) -> None:
    environment = {"BENTOML_HOME": str(tmp_path / "home"), "__BENTOML_DEBUG_USAGE": "true"}
    environment |= {"BENTOML_DO_NOT_TRACK": "False"}
    with bentoml_serves(root, tmp_path, "serving.service:Scoring", **environment) as (_, address, said):
        files = upload(root, "recording.hea", "recording.dat")
        answer = httpx.post(f"{address}/v1/arrhythmia", files=files, timeout=60)
        assert answer.json()["record"] == "recording"
        figures = httpx.get(f"{address}/metrics").text
        assert 'ibt_requests_total{method="POST",route="/v1/arrhythmia",status="200"} 1.0' in figures
    assert "Tracking Payload" not in said.read_text()


@pytest.mark.slow
def test_a_bento_is_built_lists_its_models_and_serves(root: Path, tmp_path: Path) -> None:
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    home = {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    for command in (
        [sys.executable, "-m", "serving.models"],
        [bentoml, "build", "-f", "deploy/bentofile.yaml", "-o", "tag", "."],
    ):
        ran = subprocess.run(command, cwd=root, env=os.environ | home, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    (folder,) = (path for path in (tmp_path / "home" / "bentos" / "ibt").iterdir() if path.is_dir())
    manifest = yaml.safe_load((folder / "bento.yaml").read_text(encoding="utf-8"))
    tags = {model["tag"].partition(":")[0] for model in manifest["models"]}
    assert tags == {"ibt-arrhythmia", "ibt-sepsis"}
    assert {route["name"] for route in manifest["schema"]["routes"]} == {
        "arrhythmia",
        "sepsis",
        "sepsis_next",
    }
    dockerfile = (folder / "env" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert "BENTOML_DO_NOT_TRACK" in dockerfile
    assert not list(folder.rglob("training"))
    model = next(model["tag"] for model in manifest["models"] if "sepsis" in model["tag"])
    environment = home | {"IBT_SERVE_SEPSIS": f"store:{model}"}
    with bentoml_serves(tmp_path, tmp_path, f"ibt:{folder.name}", **environment) as (_, address, _):
        files = upload(root, "stay.psv")
        answer = httpx.post(f"{address}/v1/sepsis", files=files, timeout=60).json()
        assert answer["bundle"]["sha256"].startswith(model.partition(":")[2])
