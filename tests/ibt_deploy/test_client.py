from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.bundles import recording, stay, write_header, write_psv
from helpers.service import FakeService, parts, problem, running
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy.cli import main
from ibt_deploy.client import (
    Client,
    Response,
    ServerError,
    Transport,
    answer_of,
    multipart,
    pause,
    upload_of,
)
from ibt_deploy.errors import InputError
from ibt_deploy.predictions import Prediction, Refusal
from ibt_deploy.predictor import Predictor
from ibt_deploy.render.prediction import CsvWriter, prediction_report
from ibt_deploy.render.report import plain_text
from ibt_deploy.vocabulary import INDEX, N_VARIABLES


@pytest.fixture
def service(ecg: Predictor, stays: Predictor) -> Iterator[FakeService]:
    with running(FakeService(arrhythmia=ecg, sepsis=stays)) as service:
        yield service


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client would have slept."""
    taken: list[float] = []
    monkeypatch.setattr(time, "sleep", taken.append)
    return taken


@pytest.fixture
def ecg_file(tmp_path: Path) -> Path:
    return write_header(tmp_path, recording(seed=4))


@pytest.fixture
def stay_file(tmp_path: Path) -> Path:
    return write_psv(tmp_path, stay(12, seed=4))


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, args)])


# answers


@pytest.mark.parametrize(
    "changes", [{}, {"seconds": 25.0}, {"leads": ("I", "II", "V1", "V4")}, {"rate": 100.0}], ids=str
)
def test_an_ecg_answer_survives_json(ecg: Predictor, changes: dict[str, object]) -> None:
    _survives(ecg.predict(recording(**changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize("hours", [1, 30])
def test_a_stay_answer_survives_json(stays: Predictor, hours: int) -> None:
    _survives(stays.predict(stay(hours)))


def _survives(prediction: Prediction) -> None:
    again = answer_of(json.loads(json.dumps(prediction.to_dict())), prediction.source)
    assert not isinstance(again, Refusal)
    assert again.to_dict() == prediction.to_dict()
    assert plain_text(prediction_report(again)) == plain_text(prediction_report(prediction))
    assert _csv(again) == _csv(prediction)


def _csv(prediction: Prediction) -> str:
    stream = io.StringIO()
    CsvWriter(stream, prediction.task).write(prediction)
    return stream.getvalue()


def test_a_refusal_survives_json() -> None:
    entry = Refusal("p1.psv", "too_long", "p1.psv: too long").to_dict()
    assert answer_of(entry, "in/p1.psv") == Refusal("in/p1.psv", "too_long", "in/p1.psv: too long")


# uploads


def test_a_recording_takes_its_signal_files_along_whichever_is_named(ecg_file: Path) -> None:
    whole = {ecg_file.name: ecg_file.read_bytes(), "r4.dat": ecg_file.with_suffix(".dat").read_bytes()}
    write_header(ecg_file.parent, recording(seed=5))
    for named in (ecg_file, ecg_file.with_suffix(".dat")):
        upload = upload_of(named)
        assert (upload.task, dict(upload.files)) == ("arrhythmia", whole)


def test_a_header_sends_nothing_from_elsewhere(ecg_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    secret = tmp_path / "secret.dat"
    ecg_file.with_suffix(".dat").rename(secret)
    (folder / "r4.dat").symlink_to(secret)
    for name in ("r4.dat", "../secret.dat", str(secret)):
        header = folder / "r4.hea"
        header.write_text(ecg_file.read_text().replace("r4.dat", name))
        assert list(upload_of(header).files) == ["r4.hea"]


def test_a_link_to_a_record_is_the_record(ecg_file: Path, tmp_path: Path) -> None:
    picked = tmp_path / "picked"
    picked.mkdir()
    for suffix in (".hea", ".dat"):
        (picked / f"r4{suffix}").symlink_to(ecg_file.with_suffix(suffix))
    assert set(upload_of(picked / "r4.hea").files) == {"r4.hea", "r4.dat"}


def test_a_stay_goes_alone(stay_file: Path) -> None:
    upload = upload_of(stay_file)
    assert (upload.task, dict(upload.files)) == ("sepsis", {stay_file.name: stay_file.read_bytes()})


@given(st.dictionaries(st.from_regex(r"[\w.-]{1,20}", fullmatch=True), st.binary(), min_size=1, max_size=3))
def test_what_is_packed_can_be_unpacked(files: dict[str, bytes]) -> None:
    body, content_type = multipart(files)
    assert parts(content_type, body) == files


def test_a_name_cannot_end_its_header() -> None:
    body, _ = multipart({'a"\r\nX: 1\r\n\r\nb': b"content"})
    head = body.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert len(head) == 3
    assert b"%22%0D%0AX: 1" in head[1]


# the client


def test_it_answers_as_a_predictor_does(
    service: FakeService, ecg: Predictor, stays: Predictor, ecg_file: Path, stay_file: Path
) -> None:
    with Client(service.url) as client:
        assert client.predict(ecg_file).to_dict() == ecg.predict(ecg_file).to_dict()
        assert client.predict(str(stay_file)).to_dict() == stays.predict(stay_file).to_dict()
    assert service.connections == 1


def test_what_is_refused_is_refused_with_the_reason_of_the_server(
    service: FakeService, ecg: Predictor, tmp_path: Path, stay_file: Path
) -> None:
    short = write_header(tmp_path, recording(3.0, seed=5))
    client = Client(service.url)
    found = list(client.predict_many([short, tmp_path / "absent.psv", tmp_path, stay_file]))
    assert [getattr(answer, "code", None) for answer in found] == [
        "too_short", "no_such_file", "is_a_folder", None
    ]  # fmt: skip
    assert found[0] == next(ecg.predict_many([short]))
    with pytest.raises(InputError) as caught:
        client.predict(short)
    assert caught.value.code == "too_short"


def test_a_refusal_names_the_file_that_was_given(
    service: FakeService, ecg: Predictor, tmp_path: Path
) -> None:
    signal = write_header(tmp_path, recording(3.0, seed=5)).with_suffix(".dat")
    assert list(Client(service.url).predict_many([signal])) == list(ecg.predict_many([signal]))


def test_stays_of_one_file_are_many_answers(service: FakeService, stays: Predictor, tmp_path: Path) -> None:
    one, two = (write_psv(tmp_path, stay(8, seed=seed)).read_text().splitlines() for seed in (1, 2))
    table = tmp_path / "both.csv"
    rows = [f"patient_id,{one[0]}", *(f"a,{r}" for r in one[1:]), *(f"b,{r}" for r in two[1:])]
    table.write_text("\n".join(rows).replace("|", ",") + "\n")
    client = Client(service.url)
    found = [answer.to_dict() for answer in client.predict_many([table])]
    assert found == [answer.to_dict() for answer in stays.predict_many([table])]
    assert len(found) == 2
    with pytest.raises(InputError) as caught:
        client.predict(table)
    assert caught.value.code == "several"


def test_a_task_that_was_guessed_wrong_is_corrected(service: FakeService, stay_file: Path) -> None:
    service.answers = [problem(422, "wrong_task")]
    answers = list(Client(service.url).predict_many([stay_file]))
    assert [path for path, _, _ in service.requests] == ["/v1/sepsis", "/v1/arrhythmia"]
    assert [answer.code for answer in answers if isinstance(answer, Refusal)] == ["wrong_task"]


def test_a_content_that_only_the_server_may_know_is_sent(service: FakeService, tmp_path: Path) -> None:
    odd = tmp_path / "odd.xyz"
    odd.write_bytes(b"\x01\x02\x03 nothing we know")
    (answer,) = Client(service.url).predict_many([odd])
    assert isinstance(answer, Refusal)
    assert (answer.code, len(service.requests)) == ("unsupported_format", 1)


# a stay hour by hour


def test_a_step_gives_and_takes_the_state(service: FakeService, stays: Predictor) -> None:
    expected = stays.predict(stay(1, seed=7)).to_dict()
    service.answers = [(200, {}, json.dumps(expected | {"state": "opaque"}).encode())] * 2
    client = Client(service.url)
    row = np.full((1, N_VARIABLES), np.nan)
    row[0, INDEX["ICULOS"]], row[0, INDEX["HR"]] = 3, 80
    step = client.next(row, "before")
    assert (step.prediction.to_dict(), step.state) == (expected, "opaque")
    client.next([{"ICULOS": 3.0, "HR": 80.0, "Temp": None}], "before")
    sent = [json.loads(body) for _, _, body in service.requests]
    assert sent[0] == sent[1] == {"rows": [{"HR": 80.0, "ICULOS": 3.0}], "state": "before"}


def test_a_step_that_is_no_stay_is_not_understood(
    service: FakeService, ecg: Predictor, ecg_file: Path
) -> None:
    answer = ecg.predict(ecg_file).to_dict() | {"state": "opaque"}
    service.answers = [(200, {}, json.dumps(answer).encode())]
    with pytest.raises(ServerError, match="not understood"):
        Client(service.url).next([{"ICULOS": 1.0}])


def test_a_refused_step_is_an_error_of_the_input(service: FakeService) -> None:
    service.answers = [problem(422, "doubled_hour")]
    with pytest.raises(InputError) as caught:
        Client(service.url).next([{"ICULOS": 1.0}])
    assert caught.value.code == "doubled_hour"


# patience


def test_a_busy_server_is_asked_again_when_it_says(
    service: FakeService, naps: list[float], stay_file: Path
) -> None:
    service.answers = [problem(429, "queue_full", Retry_After="7"), problem(503, "draining")]
    assert Client(service.url).predict(stay_file).task == "sepsis"
    assert 7 <= naps[0] <= 10.5
    assert 1 <= naps[1] <= 1.5
    assert len(service.requests) == 3


def test_patience_ends(service: FakeService, naps: list[float], stay_file: Path) -> None:
    service.answers = [problem(429, "queue_full")] * 9
    with pytest.raises(ServerError, match="too busy: it answered 429 3 times"):
        Client(service.url, retries=2).predict(stay_file)
    assert len(naps) == 2


@given(st.integers(0, 30))
def test_pauses_grow_and_are_bounded(tried: int) -> None:
    assert 0.5 * min(2.0**tried, 120) <= pause(Response(429, {}, b""), tried) <= 90


@pytest.mark.parametrize("value", ["-5", "soon", "9e9", ""])
def test_a_retry_after_that_says_nothing_is_left_out(value: str) -> None:
    assert 0.5 <= pause(Response(429, {"retry-after": value}, b""), 0) <= 0.75


def test_retry_after_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert 18 <= pause(Response(503, {"retry-after": date}, b""), 0) <= 30


def test_a_kept_connection_that_was_closed_is_opened_again(service: FakeService, stay_file: Path) -> None:
    client = Client(service.url)
    client.predict(stay_file)
    service.answers = [None]
    assert client.predict(stay_file).task == "sepsis"
    assert (service.connections, len(service.requests)) == (2, 3)


# errors of the server


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (problem(401, "unauthorised"), "set IBT_TOKEN"),
        (problem(500, "internal_error"), r"failed: no \[internal_error\]"),
        (problem(404, "no_such_page"), r"\[no_such_page\]"),
        ((200, {}, b"<html>"), "but not as an ibt service does"),
        ((502, {}, b"bad gateway"), "answered 502"),
        ((200, {}, b"[1]"), "not understood"),
        ((200, {}, b'{"task": "sepsis"}'), "not understood"),
        ((301, {"Location": "https://elsewhere"}, b""), "points to https://elsewhere"),
        (None, "cannot be reached"),
    ],
)
def test_a_server_that_does_not_answer_as_it_should_is_one_line(
    service: FakeService, stay_file: Path, answer: tuple[int, dict[str, str], bytes] | None, message: str
) -> None:
    service.answers = [answer, answer] if answer is None else [answer]  # it hangs up twice
    with pytest.raises(ServerError, match=message) as caught:
        Client(service.url).predict(stay_file)
    assert "\n" not in str(caught.value)


def test_a_connection_that_dies_on_its_first_request_is_opened_again(
    service: FakeService, stay_file: Path
) -> None:
    service.answers = [None]
    assert Client(service.url).predict(stay_file).record == stay_file.stem
    assert service.connections == 2


def test_several_files_are_sent_at_once_and_answered_in_order(
    service: FakeService, stay_file: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / f"stay-{number}.psv" for number in range(12)]
    for path in paths:
        path.write_bytes(stay_file.read_bytes())
    together, most = 0, 0
    answer, lock = service.answer, threading.Lock()

    def slowly(*request: Any) -> Any:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.05)
        try:
            return answer(*request)
        finally:
            with lock:
                together -= 1

    service.answer = slowly  # type: ignore[method-assign]
    with Client(service.url, connections=3) as client:
        answers = list(client.predict_many(paths))
    assert [found.source for found in answers] == list(map(str, paths))
    assert most == 3
    with pytest.raises(ValueError, match="at least one"):
        Client(service.url, connections=0)


@pytest.mark.parametrize(
    "url", ["", "localhost:3000", "ftp://host", "http://", "http://h:99999", "http://u:p@h", "http://h/?a=b", "http://[::"]
)  # fmt: skip
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ServerError):
        Client(url)


def test_a_path_may_stand_before_the_routes(service: FakeService, stay_file: Path) -> None:
    Client(f"{service.url}/ecg/").predict(stay_file)
    assert service.requests[0][0] == "/ecg/v1/sepsis"


def test_a_connection_is_verified() -> None:
    connection = Transport("https://example.org")._connection
    assert connection._context.check_hostname  # type: ignore[attr-defined]


def test_the_token_comes_from_the_environment(
    service: FakeService, stay_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IBT_TOKEN", "abc.DEF-1")
    Client(service.url).predict(stay_file)
    Client(service.url, token="").predict(stay_file)
    sent = [headers.get("Authorization") for _, headers, _ in service.requests]
    assert sent == ["Bearer abc.DEF-1", None]
    with pytest.raises(ServerError):
        Client(service.url, token="a\r\nX: y")


# the command


def test_the_command_answers_as_without_a_server(
    service: FakeService, ecg_file: Path, stay_file: Path, ecg_bundle: Path, stay_bundle: Path
) -> None:
    for file, bundle in ((ecg_file, ecg_bundle), (stay_file, stay_bundle)):
        for form in ((), ("--json",), ("--csv",)):
            there = run(file, *form, "--server", service.url)
            assert there.exit_code == 0, there.output
            assert there.stdout == run(file, *form, "--bundle", bundle, "--device", "cpu").stdout


def test_a_refusal_is_a_line_and_exit_status_1(service: FakeService, tmp_path: Path, stay_file: Path) -> None:
    short = write_header(tmp_path, recording(3.0, seed=5))
    result = run(short, stay_file, tmp_path / "absent.hea", "--json", "--server", service.url)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    lines = result.stderr.splitlines()
    assert [line.rpartition("[")[2] for line in lines] == ["too_short]", "no_such_file]"]
    assert lines[0].startswith(f"ibt: refused: {short}: ")


def test_a_server_that_is_not_there_is_a_line_and_exit_status_2(stay_file: Path) -> None:
    result = run(stay_file, "--server", "http://127.0.0.1:9")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "ibt: http://127.0.0.1:9 cannot be reached: Connection refused\n"


@pytest.mark.parametrize("option", [("--device", "auto"), ("--precision", "int8"), ("--plot", "a.png")])
def test_what_is_chosen_here_has_no_meaning_there(
    service: FakeService, stay_file: Path, option: tuple[str, str]
) -> None:
    result = run(stay_file, "--server", service.url, *option)
    assert result.exit_code == 2
    assert f"{option[0]} cannot be used with --server" in result.stderr
    assert not service.requests


def test_csv_of_a_server_holds_one_task(service: FakeService, ecg_file: Path, stay_file: Path) -> None:
    result = run(ecg_file, stay_file, "--csv", "--server", service.url)
    assert result.exit_code == 2
    assert "one task at a time" in result.stderr
