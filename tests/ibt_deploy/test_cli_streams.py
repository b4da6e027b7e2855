"""Unusual standard streams and folders: closed, full, with a narrow character set, without a home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.bundles import stay, write_psv

IBT = (sys.executable, "-c", "from ibt_deploy.cli import main; main()")


def run(*args: str | Path, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """``ibt`` in a shell, so that its streams can be closed or lead anywhere."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *IBT, *map(str, args)],
        env=os.environ | {"PYTHONUNBUFFERED": ""} | environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )


@pytest.fixture
def stay_file(tmp_path: Path) -> Path:
    return write_psv(tmp_path, stay(12, seed=4))


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
@pytest.mark.parametrize(("redirect", "status"), [(">&-", 0), (">/dev/full", 2)])
def test_output_that_is_closed_or_full(
    stay_file: Path, stay_bundle: Path, form: tuple[str, ...], redirect: str, status: int
) -> None:
    done = run("predict", stay_file, "--bundle", stay_bundle, *form, redirect=redirect)
    assert done.returncode == status
    assert done.stderr == ("" if status == 0 else "ibt: No space left on device\n")


def test_a_reader_that_has_seen_enough_gets_no_traceback(stay_file: Path, stay_bundle: Path) -> None:
    command = [*IBT, "predict", *[str(stay_file)] * 400, "--bundle", str(stay_bundle), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline()
        running.stdout.close()
        assert running.stderr is not None
        errors = running.stderr.read()
    assert (running.returncode, errors) == (128 + signal.SIGPIPE, "")


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ibt_deploy", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ibt, version ")


@pytest.mark.parametrize("form", [(), ("--csv",)])
def test_a_stream_that_lacks_the_characters(
    stay_file: Path, stay_bundle: Path, form: tuple[str, ...]
) -> None:
    odd = stay_file.rename(stay_file.with_name("caf\u00e9 \u2603.psv"))
    done = run("predict", odd, "--bundle", stay_bundle, *form, PYTHONIOENCODING="latin-1", PYTHONUTF8="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2603" in done.stdout


def test_a_home_that_is_not_there(stay_file: Path, stay_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "risk.png"
    done = run(
        "predict", stay_file, "--bundle", stay_bundle, "--plot", out, HOME="/proc", MPLCONFIGDIR="/proc/x"
    )
    assert (done.returncode, done.stderr) == (0, f"ibt: drawn: {out}\n")


def test_names_from_files_recolour_no_terminal(stay_file: Path, stay_bundle: Path) -> None:
    odd = stay_file.rename(stay_file.with_name("red\x1b[31m\nline.psv"))
    done = run("predict", odd, odd.with_name("none\x1b[31m.psv"), "--bundle", stay_bundle)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.startswith("red\\x1b[31m\\nline: hourly sepsis risk\n")


def test_ctrl_c_differs_from_a_refusal(stay_bundle: Path, tmp_path: Path) -> None:
    files = [write_psv(tmp_path, stay(300, seed=seed)) for seed in range(2)]
    command = [*IBT, "predict", *map(str, files * 300), "--bundle", str(stay_bundle), "--json"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job starts with Ctrl-C ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline()
        time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    assert (running.returncode, errors) == (130, "ibt: interrupted\n")
