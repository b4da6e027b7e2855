"""Hostile requests: each gets an immediate 4xx that reveals and stores nothing."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import stat
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ECG, STAY, NEXT = "/v1/arrhythmia", "/v1/sepsis", "/v1/sepsis/next"
JSON = {"content-type": "application/json"}
HEADER = b"x 1 500 %s\nx.dat 16 1000(0)/mV 16 0 0 0 0 I\n"
SLOWEST = 3.0


@pytest.fixture(autouse=True)
def nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Opening a file to write, or making a folder, fails the test."""
    written: list[object] = []
    to_write = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def audited(event: str, args: tuple[Any, ...]) -> None:
        if watching and (
            (event == "open" and isinstance(args[2], int) and args[2] & to_write)
            or event in ("os.mkdir", "os.rename", "os.symlink", "os.link", "tempfile.mkdtemp")
        ):
            written.append((event, args[0]))

    import sys

    watching = True
    sys.addaudithook(audited)
    yield
    watching = False
    assert not written


def refused(answer: Any, *statuses: int) -> str:
    """The code of a refusal, which must be quick to read and name nothing of the server."""
    assert answer.status_code in (statuses or (400, 413, 415, 422)), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    for secret in ("/tmp", "/work", "/home", "/root", "/usr", "site-packages", "Traceback", ".py", "root:"):
        assert secret not in answer.text
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["x-request-id"]
    return str(problem["code"])


@pytest.fixture
def within(client: Any) -> Callable[..., Any]:
    """Send a request and see that it is answered soon."""

    def send(path: str, **kwargs: Any) -> Any:
        began = time.perf_counter()
        answer = client.post(path, **kwargs)
        assert time.perf_counter() - began < SLOWEST
        return answer

    return send


def form(*parts: tuple[str, bytes]) -> dict[str, Any]:
    """A multipart body with names exactly as they are given."""
    content = b"".join(
        b'--B\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode("latin-1"), data)
        for name, data in parts
    )
    return {"content": content + b"--B--\r\n", "headers": {"content-type": "multipart/form-data; boundary=B"}}


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..\\..\\windows\\x.hea",
        "a/../b.hea",
        "..",
        ".",
        "",
        "a\x00.hea",
        "a\nb.hea",
        "~/x/a.hea",
        "con:a",
        "a" * 300,
        "\xff\xfe",
        "a\x1b[31m.hea",
        "C:\\x.hea",
        "c:\\a\\x.hea",
        "\\\\server\\x.hea",
        "%2e%2e%2fx.hea",
        "..%5Cx.hea",
        "x.hea%00.dat",
    ],
)
def test_names_that_lead_elsewhere(within: Callable[..., Any], name: str) -> None:
    assert refused(within(ECG, **form((name, b"x")))) in ("bad_file_name", "bad_multipart")


@pytest.mark.parametrize(
    "named", [b"../x.dat", b"/etc/passwd", b"..\\x.dat", b"C:\\x.dat", b"/proc/self/environ"]
)
def test_headers_that_name_files_elsewhere(within: Callable[..., Any], named: bytes) -> None:
    header = b"x 1 500 5000\n%s 16 1000(0)/mV 16 0 0 0 0 I\n" % named
    assert refused(within(ECG, **form(("x.hea", header), ("x.dat", bytes(10_000))))) == "unsafe_path"


@pytest.mark.parametrize("frames", [b"200000000000", b"9" * 400, b"-5", b"1e12", b"99999999999999999999"])
def test_a_header_that_claims_more_samples_than_there_are(within: Callable[..., Any], frames: bytes) -> None:
    tracemalloc.start()
    answer = within(ECG, **form(("x.hea", HEADER % frames), ("x.dat", bytes(20_000))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused(answer) in ("record_too_long", "truncated_file", "bad_header", "missing_lead")
    assert peak < 20e6


def test_ten_thousand_parts(within: Callable[..., Any]) -> None:
    many = [(f"f{i}.dat", b"x") for i in range(10_000)]
    assert refused(within(ECG, **form(*many)), 413) == "too_many_parts"


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_bombs(within: Callable[..., Any]) -> None:
    zeros = bytes(64 * 2**20)
    bomb = gzip.compress(zeros, 9)
    twice = gzip.compress(bomb, 9)
    for answer in (
        within(ECG, content=bomb, headers=JSON | {"content-encoding": "gzip"}),
        within(STAY, content=zlib.compress(zeros), headers=JSON | {"content-encoding": "deflate"}),
        within(ECG, **form(("x.dat.gz", bomb))),
        within(ECG, **form(("x.zip", zipped(**{"x.hea": zeros})))),
        within(ECG, **form(("x.zip", zipped(**{f"{i}.dat": bytes(2**20) for i in range(20)})))),
    ):
        assert refused(answer, 413) == "unpacked_too_large"
    assert refused(within(ECG, **form(("x.dat.gz.gz", twice)))) in ("no_recording", "unsupported_format")
    assert (
        refused(within(ECG, **form(("x.zip", zipped(**{f"{i}": b"" for i in range(40)})))))
        == "too_many_parts"
    )


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_packed_in_slow_ways(within: Callable[..., Any], method: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("x.hea", bytes(2**24))
    assert refused(within(ECG, **form(("x.zip", out.getvalue())))) == "bad_compression"


@pytest.mark.parametrize(
    "table", [b"HR," * 100_000, b"ICULOS|HR\n1|80\n" + b"|" * 100_000, b'"' + b"a" * 100_000]
)
def test_tables_with_endless_lines(within: Callable[..., Any], table: bytes) -> None:
    answer = within(STAY, content=table, headers={"content-type": "text/csv"})
    assert refused(answer, 422) == "malformed_file"


@pytest.mark.parametrize("value", [b"1", b"[]", b'""', b"{}", b'{"a":1}', b'{"a":{"a":{}}}', rb'"\n"'])
def test_json_of_too_many_values(within: Callable[..., Any], value: bytes) -> None:
    many = b"[" + (value + b",") * (2_000_000 // (len(value) + 1)) + b"1]"
    assert refused(within(STAY, content=many, headers=JSON), 413) == "body_too_large"
    if value != b"1":
        assert (
            refused(within(ECG, content=b'{"signal":' + many + b"}", headers=JSON), 413) == "body_too_large"
        )


def test_an_object_of_a_hundred_thousand_names(within: Callable[..., Any]) -> None:
    many = json.dumps({f"k{number}": 1 for number in range(90_000)}).encode()
    for path in (STAY, ECG, NEXT):
        assert refused(within(path, content=many, headers=JSON)) in ("bad_fields", "body_too_large")


def test_tables_of_hundreds_of_columns(within: Callable[..., Any]) -> None:
    table = (
        b"ICULOS,"
        + b",".join(b"c%d" % column for column in range(300))
        + b"\n"
        + (b"1" + b"," * 300 + b"\n") * 1900
    )
    answer = within(STAY, content=table, headers={"content-type": "text/csv"})
    assert refused(answer, 422) == "too_many_columns"


def test_archives_with_tricks(within: Callable[..., Any]) -> None:
    link = zipfile.ZipInfo("x.hea")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert refused(within(ECG, **form(("x.zip", out.getvalue())))) == "bad_file_name"
    for name in ("../x.hea", "/x.hea", "a/../../x.hea", "C:\\x.hea"):
        assert refused(within(ECG, **form(("x.zip", zipped(**{name: b"x"}))))) == "bad_file_name"
    good = zipped(**{"x.hea": HEADER % b"10", "x.dat": bytes(1000)})
    for damaged in (good[:60], good[:30] + b"\xff" * 20 + good[50:], b"PK\x03\x04" + bytes(100)):
        assert refused(within(ECG, **form(("x.zip", damaged)))) == "bad_compression"


@pytest.mark.parametrize(
    "content",
    [b"\x1f\x8b" + bytes(30), gzip.compress(b"[1]", mtime=0)[:-4], b"[]", b"\x1f\x8b"],
    ids=["zeros", "cut", "plain", "magic"],
)
def test_damaged_compression(within: Callable[..., Any], content: bytes) -> None:
    answer = within(STAY, content=content, headers=JSON | {"content-encoding": "gzip"})
    assert refused(answer, 400) == "bad_compression"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"rows": [{"HR": NaN}]}', "bad_json"),
        (b'{"rows": [{"HR": Infinity}]}', "bad_json"),
        (b'{"rows": [{"HR": -Infinity}]}', "bad_json"),
        (b'{"rows": [{"HR": 1e999}]}', "bad_json"),
        (b'{"rows": [{"HR": ' + b"9" * 5000 + b"}]}", "bad_json"),
        (b'{"rows": 1, "rows": 2}', "bad_json"),
        (b"[" * 100_000, "json_too_deep"),
        (b'{"a":' * 100_000, "json_too_deep"),
        (b"[" * 100_000 + b"]" * 100_000, "json_too_deep"),
        (b'[{"a":[{"b":[{"c":[{"d":[]}]}]}]}]', "json_too_deep"),
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"\xff\xff", "bad_json"),
        (b"\x00", "bad_json"),
        (b"nul", "bad_json"),
        (b'"\xed\xa0\x80"', "bad_json"),
        (b"null", "bad_fields"),
        (b'"[[[[[[[[[[[[[["', "bad_fields"),
    ],
)
def test_json_that_is_none(within: Callable[..., Any], content: bytes, code: str) -> None:
    for path in (ECG, STAY, NEXT):
        allowed = {code, "body_too_large"} if len(content) > 50_000 else {code}
        assert refused(within(path, content=content, headers=JSON)) in allowed


@pytest.mark.parametrize(
    "kind",
    ["", "text/html", "application/xml", "application/octet-stream", "multipart/mixed", "json", "\x01"],
)
def test_content_types_that_are_not_taken(within: Callable[..., Any], kind: str) -> None:
    for path in (ECG, STAY, NEXT):
        answer = within(path, content=b"{}", headers={"content-type": kind})
        assert refused(answer, 415) == "unsupported_media_type"
    answer = within(STAY, content=b"{}", headers=JSON | {"content-encoding": "br"})
    assert refused(answer, 415) == "unsupported_encoding"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        (f"multipart/form-data; boundary={'b' * 500}", b"x"),
        ("multipart/form-data; boundary=B", b""),
        ("multipart/form-data; boundary=B", b"no boundary at all"),
        (
            "multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n--B--\r\n',
        ),
        ("multipart/form-data; boundary=B", b"--B\r\n" + b"X-Header: y\r\n" * 100 + b"\r\n\r\n--B--\r\n"),
        ("multipart/form-data; boundary=B", b"--B\r\nX: " + b"y" * 10_000 + b"\r\n\r\n\r\n--B--\r\n"),
        (
            "multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; filename="a.hea"\r\n\r\nx',
        ),
    ],
)
def test_forms_that_are_damaged(within: Callable[..., Any], kind: str, content: bytes) -> None:
    assert refused(within(ECG, content=content, headers={"content-type": kind})) == "bad_multipart"


def test_xml_that_grows_or_asks_for_files(within: Callable[..., Any]) -> None:
    entities = b"".join(b'<!ENTITY e%d "%s">' % (i + 1, b"&e%d;" % i * 10) for i in range(9))
    growing = b'<!DOCTYPE a [<!ENTITY e0 "aaaaaaaaaa">%s]>' % entities
    asking = b'<!DOCTYPE a [<!ENTITY e9 SYSTEM "file:///etc/passwd">]>'
    for declared in (growing, asking):
        for root in (b'AnnotatedECG xmlns="urn:hl7-org:v3"', b"RestingECG", b"restingecgdata"):
            name = root.split()[0]
            content = b'<?xml version="1.0"?>%s<%s>&e9;</%s>' % (declared, root, name)
            refused(within(ECG, **form(("a.xml", content))), 415, 422)


def test_two_files_of_one_name(within: Callable[..., Any]) -> None:
    assert refused(within(ECG, **form(("a.hea", b"x"), ("a.hea", b"y")))) == "bad_file_name"


def test_bodies_that_are_too_large(within: Callable[..., Any]) -> None:
    assert refused(within(ECG, content=bytes(3 * 2**20), headers=JSON), 413) == "body_too_large"
    assert (
        refused(within(ECG, content=b"{}", headers=JSON | {"content-length": "9" * 30}), 413)
        == "body_too_large"
    )

    async def endless() -> Any:
        for _ in range(100):
            yield bytes(2**16)

    assert refused(within(ECG, content=endless(), headers=JSON), 413) == "body_too_large"


@pytest.mark.parametrize(
    "query", ["operating_point=a&operating_point=b", "x=1", "operating_point=%00", "record=../a"]
)
def test_queries_that_are_not_understood(within: Callable[..., Any], query: str) -> None:
    assert refused(within(f"{STAY}?{query}", content=b"[]", headers=JSON)) in (
        "bad_request",
        "unknown_operating_point",
        "bad_fields",
    )


def asked(app: Any, messages: list[tuple[float, dict[str, Any]]]) -> tuple[list[dict[str, Any]], float]:
    """Messages sent back for a body that arrives in pieces, each after its delay, and the seconds taken."""
    sent: list[dict[str, Any]] = []
    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        for delay, message in coming:
            await asyncio.sleep(delay)
            return message
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": STAY,
        "query_string": b"",
        "http_version": "1.1",
        "headers": [
            (b"host", b"ibt.test"),
            (b"content-type", b"application/json"),
            (b"transfer-encoding", b"chunked"),
        ],
    }
    began = time.perf_counter()
    asyncio.run(app(scope, receive, send))
    return sent, time.perf_counter() - began


def test_slow_bodies(app: Any) -> None:
    def piece(content: bytes) -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": True}

    for messages in ([(0.0, piece(b"["))], [(0.05, piece(b" "))] * 100):
        sent, seconds = asked(app, messages)
        assert sent[0]["status"] == 408
        assert dict(sent[0]["headers"])[b"connection"] == b"close"
        assert seconds < SLOWEST


def test_bodies_that_trickle_are_refused_after_a_second(served: Any) -> None:
    app = served(body_seconds=30, idle_seconds=5)
    byte = {"type": "http.request", "body": b" ", "more_body": True}
    for messages in ([(5.0, byte)], [(0.05, byte)] * 100):
        sent, seconds = asked(app, messages)
        assert sent[0]["status"] == 408
        assert 0.8 < seconds < 5  # well before body_seconds; the machine may be busy


def test_a_pause_after_many_bytes_is_waited_for(served: Any) -> None:
    app = served(body_seconds=30, idle_seconds=5)
    first = {"type": "http.request", "body": b"[" + b" " * 2000, "more_body": True}
    sent, _ = asked(app, [(0.0, first), (1.5, {"type": "http.request", "body": b"]", "more_body": False})])
    assert sent[0]["status"] == 422


def test_a_client_that_goes_away_is_no_failure(app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What is sent ends the connection, should the server still hold it."""
    sent, _ = asked(app, [(0.0, {"type": "http.disconnect"})])
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"connection"]) == (400, b"close")
    assert sent[1:] == [{"type": "http.response.body", "body": b""}]
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["event"], line["status"]) == ("request", 499)


def test_after_all_that_the_service_still_answers(client: Any, examples: Path) -> None:
    files = [("files", (n, (examples / n).read_bytes())) for n in ("recording.hea", "recording.dat")]
    assert client.post(ECG, files=files).status_code == 200
    rows = json.loads(client.get("/openapi.json").text)["paths"][STAY]["post"]["requestBody"]["content"]
    assert client.post(STAY, json=rows["application/json"]["examples"]["rows"]["value"]).status_code == 200


def test_compressed_signals_that_unpack_to_more_than_may_be_held(within: Callable[..., Any]) -> None:
    """Two minutes of silence at 10 kHz: 30 kB as FLAC, 29 MB as samples."""
    soundfile = pytest.importorskip("soundfile")
    out = io.BytesIO()
    silence = np.zeros((119 * 10_000, 8), dtype=np.int16)
    soundfile.write(out, silence, 10_000, format="FLAC", subtype="PCM_16")
    lines = [b"x 8 10000 1190000", *(b"x.dat 516 1000(0)/mV 16 0 0 0 0 V%d" % lead for lead in range(8)), b""]
    answer = within(ECG, **form(("x.hea", b"\n".join(lines)), ("x.dat", out.getvalue())))
    assert refused(answer, 413) == "unpacked_too_large"
