"""Saved benchmarks: which ratios are kept, and what counts as a regression."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import load_server
from benchmarks.__main__ import _speeds, _training_ratios, benchmarks


def test_speeds_are_multiples_of_the_reference_of_their_kind() -> None:
    times = {
        "a recording, PyTorch eager": {"batch 1": 20.0, "batch 32": 10.0},
        "a recording, ONNX Runtime fp32": {"batch 1": 5.0, "batch 32": 4.0},
        "a recording, torch_ecg multi_scopic, PyTorch eager": {"batch 1": 40.0, "batch 32": 40.0},
        "a stay-hour, one pass": {"batch 1": 1.0},
        "a stay-hour, row by row with pandas": {"batch 1": 8.0},
    }
    assert _speeds(times) == {
        "a recording, ONNX Runtime fp32, batch 1, times as fast as PyTorch eager": 4.0,
        "a recording, ONNX Runtime fp32, batch 32, times as fast as PyTorch eager": 2.5,
        "a recording, torch_ecg multi_scopic, PyTorch eager, batch 1, times as fast as PyTorch eager": 0.5,
        "a recording, torch_ecg multi_scopic, PyTorch eager, batch 32, times as fast as PyTorch eager": 0.25,
        "a stay-hour, row by row with pandas, batch 1, times as fast as one pass": 0.125,
    }


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
