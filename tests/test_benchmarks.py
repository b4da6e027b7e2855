"""Saved benchmarks: which ratios are kept, and what counts as a regression."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import load_server
from benchmarks.__main__ import _speeds, _training_ratios, benchmarks
from benchmarks.scoring import packaged_network, scoring_table
from ibt_deploy.bundle import load_bundle


def test_speeds_are_multiples_of_the_reference_of_their_kind() -> None:
    times = {
        "a recording, paper's student in PyTorch eager": {"batch 1": 50.0, "batch 32": 40.0},
        "a recording, packaged network in PyTorch eager": {"batch 1": 20.0, "batch 32": 10.0},
        "a recording, ONNX Runtime fp32": {"batch 1": 5.0, "batch 32": 4.0},
        "a recording, torch_ecg multi_scopic, PyTorch eager": {"batch 1": 40.0, "batch 32": 40.0},
        "a stay-hour, one pass": {"batch 1": 1.0},
        "a stay-hour, row by row with pandas": {"batch 1": 8.0},
    }
    eager = "times as fast as packaged network in PyTorch eager"
    assert _speeds(times) == {
        f"a recording, paper's student in PyTorch eager, batch 1, {eager}": 0.4,
        f"a recording, paper's student in PyTorch eager, batch 32, {eager}": 0.25,
        f"a recording, ONNX Runtime fp32, batch 1, {eager}": 4.0,
        f"a recording, ONNX Runtime fp32, batch 32, {eager}": 2.5,
        f"a recording, torch_ecg multi_scopic, PyTorch eager, batch 1, {eager}": 0.5,
        f"a recording, torch_ecg multi_scopic, PyTorch eager, batch 32, {eager}": 0.25,
        "a stay-hour, row by row with pandas, batch 1, times as fast as one pass": 0.125,
    }


def test_the_table_compares_with_the_step_before_and_the_packaged_network() -> None:
    times = {
        "a recording, paper's student in PyTorch eager": {"batch 1": 50.0, "batch 32": 40.0},
        "a recording, packaged network in PyTorch eager": {"batch 1": 20.0, "batch 32": 10.0},
        "a recording, ONNX Runtime fp32": {"batch 1": 5.0, "batch 32": 4.0},
        "a recording, torch_ecg multi_scopic, PyTorch eager": {"batch 1": 40.0, "batch 32": 40.0},
        "a stay-hour, packaged network in PyTorch eager": {"batch 1": 0.5, "batch 32": 0.25},
    }
    assert scoring_table(times).splitlines()[2:] == [
        "| a recording, paper's student in PyTorch eager | 50.00 | 40.00 |  | 2.50, 4.00 |",
        "| a recording, packaged network in PyTorch eager | 20.00 | 10.00 | 0.40, 0.25 | 1.00, 1.00 |",
        "| a recording, ONNX Runtime fp32 | 5.00 | 4.00 | 0.25, 0.40 | 0.25, 0.40 |",
        "| a recording, torch_ecg multi_scopic, PyTorch eager | 40.00 | 40.00 |  | 2.00, 4.00 |",
        "| a stay-hour, packaged network in PyTorch eager | 0.500 | 0.250 |  | 1.00, 1.00 |",
    ]


@pytest.mark.parametrize(("task", "n_inputs", "samples"), [("arrhythmia", 12, 2000), ("sepsis", 109, 48)])
def test_the_network_timed_in_eager_is_as_large_as_the_packaged_one(
    task: str, n_inputs: int, samples: int
) -> None:
    bundle = load_bundle(task)
    parameters = sum(p.numel() for p in packaged_network(bundle, n_inputs, samples).parameters())
    assert parameters == bundle.contract["training"]["student"]["parameters"]


def test_what_a_machine_lacks_is_no_ratio() -> None:
    rates = {"transformer": {"fp32": 10.0, "bf16": None}, "bbm": {"fp32": 5.0, "bf16": None}}
    assert _training_ratios(rates) == {"training bbm, fp32, times as fast as transformer": 0.5}


@pytest.mark.parametrize(
    ("after", "options", "status", "said"),
    [
        ({"x": 3.1, "y": 1.0}, [], 0, "| x | 4 | 3.1 | -22% |"),
        ({"x": 2.9, "y": 1.0}, [], 1, "| x | 4 | 2.9 | -28% slower |"),
        ({"x": 2.9, "y": 1.0}, ["--margin", "0.3"], 0, "| x | 4 | 2.9 | -28% |"),
        ({"y": 1.0, "z": 2.0}, [], 0, "| x | 4 |  | not in B |"),
    ],
)
def test_a_comparison_fails_where_a_ratio_fell(
    tmp_path: Path, after: dict[str, float], options: list[str], status: int, said: str
) -> None:
    paths = []
    for name, ratios in (("a", {"x": 4.0, "y": 1.0}), ("b", after)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps({"ratios": ratios}), encoding="utf-8")
    result = CliRunner().invoke(benchmarks, ["compare", *map(str, paths), *options])
    assert (result.exit_code, said in result.output) == (status, True), result.output


def test_a_release_without_results_is_refused() -> None:
    result = CliRunner().invoke(benchmarks, ["compare", "0.0.0", "0.0.0"])
    assert result.exit_code == 2
    assert "no saved results" in result.output


def test_each_server_is_charged_with_the_lines_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shell.py").write_text(
        '''"""What two servers need."""

LIMIT = 1


@decorated
def only_a():
    """For the first."""

    return LIMIT


class Shell:
    def both(self):  # two lines
        return 1
''',
        encoding="utf-8",
    )
    (tmp_path / "b.py").write_text("x = 1\n# a comment\n\ny = 2\n", encoding="utf-8")
    monkeypatch.setattr(load_server, "ROOT", tmp_path)
    parts = {"shell.only_a": ("a",), "shell": ("a", "b"), "b": ("b",)}
    monkeypatch.setattr(load_server, "PARTS", parts)
    assert load_server.lines_needed("a") == (3, 4)
    assert load_server.lines_needed("b") == (2, 4)
    assert load_server.lines_needed("c") == (0, 0)


def test_what_servers_need_exists() -> None:
    for server in load_server.COMMANDS:
        own, shared = load_server.lines_needed(server)
        assert own + shared > 0
