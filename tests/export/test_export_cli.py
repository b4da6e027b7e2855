"""``ibt export`` from a user's view."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from export.build import Run
from ibt_deploy.bundle import load_bundle
from ibt_deploy.cli import main


def ibt(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["export", *map(str, words)])
    return result.exit_code, result.output


def test_a_student_becomes_a_bundle(stay_student: Run, stays: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundles" / "sepsis"
    candidates = tmp_path / "candidates.toml"
    candidates.write_text(
        'about = "here"\nreason = "none"\nmodels = [{ name = "one", figures = { AUROC = 0.8 } }]\n'
    )
    words = ("--out", out, "--draws", "5", "--name", "mine", "--candidates", candidates)
    code, text = ibt(stay_student.path, "--cache", stays, *words)
    assert code == 0, text
    assert "test: utility 2019" in text
    bundle = load_bundle(out)
    assert set(bundle.variants) == {"fp32", "int8"}
    assert bundle.name == "mine"
    training = bundle.contract["training"]
    (candidate,) = training["candidates"]["models"]
    assert (candidate["name"], candidate["figures"]) == ("one", {"AUROC": 0.8})
    assert training["command"] == (
        "ibt export runs/student/best.pt --cache cache/stays --candidates candidates.toml "
        "--out ibt_deploy/bundles/sepsis"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give STUDENT.pt, --cache and --out"),
        (["nowhere.pt"], "does not exist"),
        (["{student}", "--cache", "{cache}", "--out", "x", "--external", "ludb"], "expected NAME=DIR"),
        (["{student}", "--cache", "{cache}", "--out", "x", "--draws", "0"], "--draws"),
    ],
)
def test_wrong_words_are_explained(words: list[str], message: str, stay_student: Run, stays: Path) -> None:
    code, text = ibt(*(word.format(student=stay_student.path, cache=stays) for word in words))
    assert code == 2
    assert message in text


def test_errors_are_one_line(stay_student: Run, ecgs: Path, tmp_path: Path) -> None:
    code, text = ibt(stay_student.path, "--cache", ecgs, "--out", tmp_path / "out")
    assert code == 2
    last = text.strip().splitlines()[-1]
    assert last.startswith("ibt: ")
    assert "is for sepsis, the cache holds arrhythmia data" in last


def test_a_damaged_checkpoint_is_refused(stays: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "best.pt"
    damaged.write_bytes(b"no checkpoint")
    code, text = ibt(damaged, "--cache", stays, "--out", tmp_path / "out")
    assert code == 2
    assert "not a readable checkpoint" in text


def test_cards_are_rewritten_from_the_packaged_contracts(
    stay_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibt_deploy.bundle.packaged_bundles", lambda: {"sepsis": stay_bundle})
    assert ibt("--cards") == (0, "sepsis: up to date\n")
    monkeypatch.setattr("ibt_deploy.bundle.packaged_bundles", dict)
    code, text = ibt("--cards")
    assert (code, "no bundle is in the package yet" in text) == (2, True)


def test_help_needs_no_torch() -> None:
    code = "import sys; import export.cli; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
