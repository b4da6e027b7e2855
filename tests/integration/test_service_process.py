"""The service as a process: how it starts, what it shares among workers, and how it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from helpers.served import SECONDS_TO_START, START, await_closed, await_ready, running, upload


def long_recording(root: Path, copies: int) -> list[tuple[str, tuple[str, bytes]]]:
    """The example recording, repeated."""
    (_, (name, header)), (_, (signals, content)) = upload(root, "recording.hea", "recording.dat")
    longer = header.replace(b" 10000\n", b" %d\n" % (10_000 * copies), 1)
    assert longer != header
    return [("files", (name, longer)), ("files", (signals, content * copies))]


def test_requests_under_way_are_finished_at_sigterm_and_new_ones_are_refused(root: Path) -> None:
    with running(root) as (process, address):
        answers: list[httpx.Response] = []
        files = long_recording(root, 12)

        def ask() -> None:
            answers.append(httpx.post(f"{address}/v1/arrhythmia", files=files, timeout=60))

        asking = [threading.Thread(target=ask) for _ in range(4)]
        with httpx.Client(base_url=address) as kept_alive:
            kept_alive.get("/livez")
            for thread in asking:
                thread.start()
            end = time.monotonic() + 30
            while "ibt_requests_in_flight 5" not in kept_alive.get("/metrics").text:
                assert time.monotonic() < end
            process.send_signal(signal.SIGTERM)
            await_closed(address)
            assert not answers
        for thread in asking:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 4
        assert process.wait(timeout=30) == 0


def test_workers_share_figures_and_the_key_of_states(root: Path) -> None:
    with running(root, "--workers", "2", "--threads", "1") as (process, address):
        state, asked = None, 0
        for hour in range(1, 13):  # each on its own connection, so that both workers are reached
            body = {"rows": [{"ICULOS": hour, "HR": 80}], "state": state}
            answer = httpx.post(f"{address}/v1/sepsis/next", json=body, timeout=30)
            assert answer.status_code == 200, answer.text
            state, asked = answer.json()["state"], asked + 1
        figures = httpx.get(f"{address}/metrics").text
        assert f'route="/v1/sepsis/next",status="200"}} {asked}.0' in figures
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def test_a_worker_that_dies_is_replaced_and_its_figures_forgotten(root: Path) -> None:
    with running(root, "--workers", "2", "--threads", "1") as (process, address):
        workers = _workers(process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        end = time.monotonic() + SECONDS_TO_START
        while len(now := _workers(process.pid)) < 2 or set(now) == set(workers):
            assert time.monotonic() < end
            time.sleep(0.1)
        await_ready(process, address)
        while "ibt_requests_in_flight 1.0" not in httpx.get(f"{address}/metrics", timeout=30).text:
            assert time.monotonic() < end + SECONDS_TO_START  # the new worker cleans up when it starts
            time.sleep(0.1)


def test_workers_end_with_the_process_that_started_them(root: Path) -> None:
    with running(root, "--workers", "2", "--threads", "1") as (process, address):
        workers = _workers(process.pid)
        process.kill()
        await_closed(address)
        end = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.mark.parametrize("seconds", [0.4, 0.8, 1.2])
def test_workers_end_with_a_process_that_is_killed_while_they_start(root: Path, seconds: float) -> None:
    process = subprocess.Popen(
        [*START, "--port", "0", "--workers", "2", "--threads", "1"],
        cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        assert process.stderr.readline().startswith("ibt: serving on")
        time.sleep(seconds)
        process.kill()
        process.wait()
        end = time.monotonic() + SECONDS_TO_START
        while _group_lives(process.pid):
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()


def _group_lives(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def _workers(parent: int) -> list[int]:
    """Processes that serve, of those that ``parent`` started."""
    if not Path("/proc").is_dir():
        pytest.skip("this system has no /proc")
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    serving = []
    for pid in found:
        with suppress(OSError):  # it has ended in the meantime
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                serving.append(int(pid))
    return serving


def test_a_port_that_is_taken_is_named_in_one_line(root: Path, service: str) -> None:
    port = service.rpartition(":")[2]
    told = subprocess.run([*START, "--port", port], cwd=root, capture_output=True, text=True, timeout=60)
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1].endswith(
        f"cannot listen on port {port} of 127.0.0.1: Address already in use"
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_is_taken_from_the_first_line_on(root: Path, workers: str) -> None:
    options = ["--workers", workers, "--threads", "1"]
    first = subprocess.Popen([*START, "--port", "0", *options], cwd=root, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    try:
        found = re.search(r"http://127.0.0.1:(\d+)", first.stderr.readline())
        assert found
        second = [*START, "--port", found[1], *options]
        told = subprocess.run(second, cwd=root, capture_output=True, text=True, timeout=60)
        assert "Address already in use" in told.stderr.splitlines()[-1]
        await_ready(first, found[0])
    finally:
        first.terminate()
        assert first.wait(timeout=30) == 0
        first.stderr.close()


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0])
def test_an_interruption_of_the_start_ends_it(root: Path, seconds: float) -> None:
    process = subprocess.Popen(
        [*START, "--port", "0", "--workers", "2"],
        cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith("ibt: serving on")
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGINT)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interruption_from_the_keyboard_ends_it_in_order(root: Path, workers: str) -> None:
    with running(root, "--workers", workers, "--threads", "1", start_new_session=True) as (process, address):
        assert httpx.get(f"{address}/livez").status_code == 200
        os.killpg(process.pid, signal.SIGINT)  # to all of them, as a terminal does
        assert process.wait(timeout=20) == 0  # well before the 30 s after which workers are killed
        await_closed(address)


def test_settings_that_cannot_be_used_are_named_in_one_line(root: Path) -> None:
    for variable, value in (("QUEUE", "many"), ("TOKEN", "short"), ("BODY_BYTES", "-1")):
        told = subprocess.run(
            START, cwd=root, env=os.environ | {f"IBT_SERVE_{variable}": value}, capture_output=True, text=True
        )
        assert told.returncode != 0
        assert f"IBT_SERVE_{variable}" in told.stderr.splitlines()[-1]
        assert "short" not in told.stderr.replace("shorter", "")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bundle_that_cannot_be_used_is_named_in_one_line(root: Path, workers: str) -> None:
    bundle = root / "ibt_deploy" / "bundles" / "sepsis"
    options = ["--port", "0", "--workers", workers, "--bundle", str(bundle)]
    told = subprocess.run([*START, *options], cwd=root, capture_output=True, text=True, timeout=60)
    assert told.returncode == 3
    assert told.stderr == f"ibt: {bundle}: a bundle for sepsis is configured for arrhythmia\n"


def test_a_start_that_fails_in_the_workers_fails_as_a_whole_and_soon(root: Path) -> None:
    told = subprocess.run(
        [*START, "--port", "0", "--workers", "2", "--threads", "1"],
        cwd=root,
        env=os.environ | {"IBT_SERVE_PRECISION": "none"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 3
    assert "no variant 'none'" in told.stderr


def test_it_ends_though_somebody_removed_its_temporary_folder(root: Path, tmp_path: Path) -> None:
    with running(root, "--workers", "2", TMPDIR=str(tmp_path)) as (process, address):
        for folder in tmp_path.glob("ibt-metrics-*"):
            shutil.rmtree(folder)
        process.terminate()
        assert process.wait(timeout=30) == 0
        await_closed(address)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_certificate_of_no_use_is_named_in_one_line(root: Path, tmp_path: Path, workers: str) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    options = ["--port", "0", "--workers", workers, "--ssl-certfile", str(tmp_path / "cert.pem")]
    told = subprocess.run([*START, *options], cwd=root, capture_output=True, text=True, timeout=60)
    assert told.returncode == 1
    assert f"cannot use {tmp_path / 'cert.pem'} for TLS" in told.stderr.splitlines()[-1]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_and_a_token_protect_what_scores(root: Path, tmp_path: Path) -> None:
    certificate, key, token = (tmp_path / name for name in ("cert.pem", "key.pem", "token"))
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            key,
            "-out",
            certificate,
            *subject,
        ],
        check=True,
        capture_output=True,
    )
    token.write_text("a token that is long\n")
    options = ["--port", "0", "--token-file", str(token), "--ssl-certfile", str(certificate)]
    process = subprocess.Popen(
        [*START, *options, "--ssl-keyfile", str(key)], cwd=root, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"IBT_SERVE_ADDRESS_FILE": str(tmp_path / "address")},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        found = re.search(r"https://127.0.0.1:\d+", process.stderr.readline())
        assert found
        context = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=found[0], verify=context) as client:
            end = time.monotonic() + SECONDS_TO_START
            while time.monotonic() < end:
                with suppress(httpx.TransportError):
                    if client.get("/readyz").status_code == 200:
                        break
                time.sleep(0.1)
            for path in ("/v1/sepsis", "/sepsis", "/sepsis_next", "/arrhythmia", "/v1/arrhythmia"):
                assert client.post(path, json={}).status_code == 401
            assert client.get("/metrics").status_code == 401
            allowed = {"Authorization": "Bearer a token that is long"}
            assert client.get("/v1/models", headers=allowed).status_code == 200
        asked = [sys.executable, "-m", "serving.health"]
        environment = os.environ | {"IBT_SERVE_ADDRESS_FILE": str(tmp_path / "address")}
        assert subprocess.run(asked, cwd=root, env=environment).returncode == 0
        with pytest.raises(httpx.TransportError):
            httpx.get(found[0].replace("https", "http") + "/livez")
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0
        process.stderr.close()
