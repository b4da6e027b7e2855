"""Output of the README's first commands."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.command import Run

EXAMPLES = ("examples/recording.hea", "examples/stay.psv")


def test_example_recording_and_stay_are_scored(ibt: Run) -> None:
    start = time.perf_counter()
    done = ibt("predict", *EXAMPLES)
    seconds = time.perf_counter() - start
    assert (done.returncode, done.stderr) == (0, "")
    assert "sinus rhythm" in done.stdout
    assert "risk" in done.stdout.lower()
    assert "not a medical device" in done.stdout
    assert seconds < 10, "two seconds on a machine that does nothing else"


def test_json_is_one_object_a_line_with_the_whole_contract(ibt: Run) -> None:
    lines = ibt("predict", "--json", *EXAMPLES).stdout.splitlines()
    ecg, stay = map(json.loads, lines)
    assert (ecg["task"], stay["task"]) == ("arrhythmia", "sepsis")
    for answer in (ecg, stay):
        assert answer["device"] in ("cpu", "cuda")
        assert len(answer["bundle"]["sha256"]) == 64
    assert len(ecg["findings"]) == 26
    assert any(f["positive"] for f in ecg["findings"])
    assert len(stay["hours"]) == 40


def test_a_refused_file_costs_only_itself(ibt: Run, tmp_path: Path) -> None:
    empty = tmp_path / "empty.psv"
    empty.touch()
    done = ibt("predict", "--json", EXAMPLES[0], empty, EXAMPLES[1])
    assert done.returncode == 1
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum("findings" in a or "hours" in a for a in answers) == 2
    assert done.stderr.count("\n") == 1
    assert "empty" in done.stderr


def test_golden_inputs_are_recomputed(ibt: Run) -> None:
    done = ibt("verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_models_and_cards_are_shown(ibt: Run) -> None:
    listed = ibt("models").stdout
    assert "arrhythmia" in listed
    assert "sepsis" in listed
    for task in ("arrhythmia", "sepsis"):
        assert "not a medical device" in ibt("models", "--card", task).stdout


def test_cuda_fails_loudly_where_there_is_none(ibt: Run) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    done = ibt("predict", "--device", "cuda", EXAMPLES[0])
    assert done.returncode == 2
    assert "CUDA" in done.stderr


def test_help_of_every_command(ibt: Run) -> None:
    commands = ["predict", "inspect", "models", "verify", "evaluate", "train", "export"]
    for command in commands:
        assert ibt(command, "--help").returncode == 0, command


@pytest.mark.slow
def test_start_up_is_not_felt(root: Path) -> None:
    """At most 1.5 times what importing wfdb and onnxruntime takes, the best of several runs each."""
    python = sys.executable
    reference = [python, "-W", "ignore", "-c", "import wfdb, onnxruntime"]
    predict = [str(Path(python).with_name("ibt")), "predict", EXAMPLES[0]]

    def seconds(command: list[str]) -> float:
        start = time.perf_counter()
        subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=120)
        return time.perf_counter() - start

    times = [(seconds(reference), seconds(predict)) for _ in range(7)]
    least_reference, least_predict = (min(column) for column in zip(*times, strict=True))
    assert least_predict <= 1.5 * least_reference, (least_predict, least_reference)
