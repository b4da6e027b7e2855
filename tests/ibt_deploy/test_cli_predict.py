from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers.bundles import recording, stay, write_header, write_psv

from ibt_deploy import bundle as bundles
from ibt_deploy.cli import main
from ibt_deploy.predictions import NOTICE


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, args)])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ecg_bundle: Path, stay_bundle: Path) -> None:
    """Both tiny bundles in the place of the packaged ones."""
    folder = tmp_path / "bundles"
    folder.mkdir()
    (folder / "arrhythmia").symlink_to(ecg_bundle)
    (folder / "sepsis").symlink_to(stay_bundle)
    monkeypatch.setattr(bundles, "_PACKAGED", folder)


@pytest.fixture
def ecg_file(tmp_path: Path) -> Path:
    return write_header(tmp_path, recording(seed=4))


@pytest.fixture
def stay_file(tmp_path: Path) -> Path:
    return write_psv(tmp_path, stay(12, seed=4))


def test_the_task_is_found_from_the_content(installed: None, ecg_file: Path, stay_file: Path) -> None:
    odd = stay_file.rename(stay_file.with_name("stay.txt"))
    result = run(ecg_file, odd, "--json")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["task"] for line in result.stdout.splitlines()] == ["arrhythmia", "sepsis"]


def test_text_shows_positive_findings_first_and_what_it_is_not(installed: None, ecg_file: Path) -> None:
    result = run(ecg_file)
    lines = result.stdout.splitlines()
    assert lines[0] == "r4: arrhythmia findings"
    marks = [line.startswith("  positive") for line in lines if line.startswith(("  positive", "      "))]
    assert any(marks)
    assert marks[1:] == sorted(marks[1:], reverse=True)
    assert "not evaluable, too little is known of them: BBB, PRWP" in result.stdout
    assert NOTICE in result.stdout
    assert "\x1b" not in result.stdout


def test_text_shows_every_hour(installed: None, stay_file: Path) -> None:
    result = run(stay_file)
    hours = [line.split()[0] for line in result.stdout.splitlines() if " of 34" in line]
    assert hours == [str(h) for h in range(1, 13)]
    assert "latest" in result.stdout
    assert NOTICE in result.stdout


def test_refused_inputs_are_named_and_the_others_scored(
    installed: None, tmp_path: Path, ecg_file: Path, stay_file: Path
) -> None:
    short = write_header(tmp_path, recording(3.0, seed=5))
    empty = tmp_path / "empty.hea"
    empty.write_bytes(b"")
    folder = tmp_path / "nothing"
    folder.mkdir()
    result = run(short, ecg_file, tmp_path / "absent.psv", stay_file, empty, folder, "--json")
    assert result.exit_code == 1
    assert [json.loads(line)["record"] for line in result.stdout.splitlines()] == ["r4", "p4"]
    errors = result.stderr.splitlines()
    assert [e.rpartition("[")[2] for e in errors] == [
        "too_short]",
        "no_such_file]",
        "empty_file]",
        "empty_folder]",
    ]
    assert all(e.startswith("ibt: refused: ") for e in errors)


def test_csv_has_a_line_for_every_class_or_hour(installed: None, ecg_file: Path, stay_file: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run(ecg_file, ecg_file, "--csv").stdout)))
    assert len(rows) == 52
    assert {row["record"] for row in rows} == {"r4"}
    answers = json.loads(run(ecg_file, "--json").stdout)["findings"]
    assert [float(r["probability"]) for r in rows[:26]] == [f["probability"] for f in answers]
    rows = list(csv.DictReader(io.StringIO(run(stay_file, "--csv").stdout)))
    hours = json.loads(run(stay_file, "--json").stdout)["hours"]
    assert [float(r["risk"]) for r in rows] == [h["risk"] for h in hours]
    assert [r["missing"].split() for r in rows] == [h["missing"] for h in hours]


def test_csv_holds_one_task(installed: None, ecg_file: Path, stay_file: Path) -> None:
    result = run(ecg_file, stay_file, "--csv")
    assert result.exit_code == 2
    assert "one task at a time" in result.stderr


def test_a_bundle_refuses_inputs_of_the_other_task(ecg_file: Path, stay_file: Path, ecg_bundle: Path) -> None:
    result = run("--bundle", ecg_bundle, stay_file, ecg_file, "--json")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert "[wrong_task]" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "fp8"), "no variant 'fp8'; there is fp32, int8"),
        (("--operating-point", "none"), "no operating point 'none'; there is challenge, strict"),
    ],
)
def test_what_the_bundle_does_not_have_is_an_error(
    ecg_file: Path, ecg_bundle: Path, options: tuple[str, str], message: str
) -> None:
    result = run("--bundle", ecg_bundle, ecg_file, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_precision_and_operating_point_are_in_the_answer(ecg_file: Path, ecg_bundle: Path) -> None:
    result = run(
        "--bundle", ecg_bundle, ecg_file, "--precision", "int8", "--operating-point", "strict", "--json"
    )
    found = json.loads(result.stdout)
    assert (found["bundle"]["variant"], found["operating_point"]) == ("int8", "strict")


def test_no_bundle_and_no_file_are_errors_of_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ecg_file: Path
) -> None:
    monkeypatch.setattr(bundles, "_PACKAGED", tmp_path)
    result = run(ecg_file)
    assert result.exit_code == 2
    assert "no arrhythmia bundle is installed" in result.stderr
    assert run().exit_code == 2


def test_plots_of_several_answers_are_numbered(
    installed: None, tmp_path: Path, ecg_file: Path, stay_file: Path
) -> None:
    result = run(ecg_file, tmp_path / "absent.hea", stay_file, "--plot", tmp_path / "out.png")
    assert result.exit_code == 1
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["out-1.png", "out-2.png"]
    assert run(ecg_file, "--plot", tmp_path / "one.png").exit_code == 0
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_are_named_as_they_are_and_not_replaced(
    installed: None, tmp_path: Path, stay_file: Path
) -> None:
    out = tmp_path / "out.png"
    assert run(stay_file, stay_file, "--plot", out, "--json").stderr.splitlines() == [
        f"ibt: drawn: {tmp_path / f'out-{n}.png'}" for n in (1, 2)
    ]
    for _ in range(2):
        again = run(stay_file, "--plot", out)
        assert (again.exit_code, again.stdout) == (2, "")
        assert "already exists; --force replaces it" in again.stderr
        out.write_bytes(b"mine")
    assert run(stay_file, "--plot", out, "--force").stderr == f"ibt: drawn: {out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_folder_stands_for_the_records_in_it(
    installed: None, tmp_path: Path, ecg_file: Path, stay_file: Path
) -> None:
    below = tmp_path / "below"
    below.mkdir()
    write_psv(below, stay(6, seed=7))
    (tmp_path / "LICENSE").write_text("do as you like")
    result = run(tmp_path, "--json")
    assert result.exit_code == 0, result.output
    assert sorted(json.loads(line)["record"] for line in result.stdout.splitlines()) == ["p4", "p7", "r4"]
    assert result.stderr == f"ibt: {tmp_path}: 1 file left out, neither an ECG nor a stay\n"
    named = run(tmp_path / "LICENSE")
    assert (named.exit_code, "[unsupported_format]" in named.stderr) == (1, True)
    (tmp_path / "broken.dcm").write_text("called DICOM, and nothing of the kind")
    broken = run(tmp_path, "--json")
    assert (broken.exit_code, broken.stdout) == (1, result.stdout)
    assert "broken.dcm: this is called DICOM" in broken.stderr


def test_a_record_may_be_named_without_its_suffix(installed: None, ecg_file: Path) -> None:
    bare = run(ecg_file.with_suffix(""), "--json")
    assert (bare.exit_code, bare.stdout) == (0, run(ecg_file, "--json").stdout)


def test_standard_input_is_scored(installed: None, stay_file: Path) -> None:
    given = CliRunner().invoke(main, ["predict", "-", "--json"], input=stay_file.read_bytes())
    answer, expected = json.loads(given.stdout), json.loads(run(stay_file, "--json").stdout)
    assert answer["hours"] == expected["hours"]
    assert (answer["record"], given.exit_code) == ("stdin", 0)
    empty = CliRunner().invoke(main, ["predict", "-"], input=b"")
    assert (empty.exit_code, "[empty_file]" in empty.stderr) == (1, True)


def test_a_file_that_cannot_be_read_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch, installed: None, tmp_path: Path, ecg_file: Path
) -> None:
    locked = tmp_path / "locked.psv"
    locked.write_text("HR|O2Sat")
    access, opened = os.access, Path.open
    monkeypatch.setattr(os, "access", lambda p, *a, **k: Path(p) != locked and access(p, *a, **k))

    def deny(self: Path, *args: Any, **options: Any) -> Any:
        if self == locked:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", deny)
    result = run(ecg_file, locked, "--json")
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 1)
    assert "Permission denied [unreadable_file]" in result.stderr


@pytest.mark.parametrize(("form", "suffix"), [("--json", ".json"), ("--csv", ".csv"), (None, ".txt")])
def test_answers_go_to_files_of_their_own(
    installed: None, tmp_path: Path, ecg_file: Path, stay_file: Path, form: str | None, suffix: str
) -> None:
    out = tmp_path / "answers"
    options = [form] if form else []
    result = run(ecg_file, stay_file, stay_file, "--out-dir", out, *options)
    assert (result.exit_code, result.stdout) == (0, "")
    assert sorted(p.name for p in out.iterdir()) == [f"p4-2{suffix}", f"p4{suffix}", f"r4{suffix}"]
    assert (out / f"r4{suffix}").read_text() == run(ecg_file, *options).stdout
    again = run(ecg_file, "--out-dir", out, *options)
    assert (again.exit_code, "--force replaces them" in again.stderr) == (2, True)
    assert run(ecg_file, "--out-dir", out, "--force", *options).exit_code == 0


def test_json_and_csv_exclude_each_other(installed: None, stay_file: Path) -> None:
    result = run(stay_file, "--json", "--csv")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "choose one" in result.stderr


@pytest.mark.parametrize("place", ["none/risk.png", "risk.xyz", "risk"])
def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_scored(
    installed: None, stay_file: Path, tmp_path: Path, place: str
) -> None:
    result = run(stay_file, "--plot", tmp_path / place)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--plot" in result.stderr


def test_any_name_can_be_drawn(installed: None, stay_file: Path, tmp_path: Path) -> None:
    odd = stay_file.rename(stay_file.with_name("a$\\frac$b \u2603\udcff.psv"))
    result = run(odd, "--plot", tmp_path / "risk.png", "--json")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "risk.png").stat().st_size > 0


def test_a_plot_without_matplotlib_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, installed: None, tmp_path: Path, ecg_file: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(ecg_file, "--plot", tmp_path / "out.png")
    assert result.exit_code == 2
    assert "pip install 'ibt[plot]'" in result.stderr
    assert result.stdout == ""


def test_scoring_a_wfdb_record_loads_nothing_heavy(ecg_file: Path, ecg_bundle: Path) -> None:
    code = (
        "import sys\nfrom ibt_deploy.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = ('wfdb', 'pandas', 'scipy', 'rich', 'matplotlib', 'pyarrow', 'torch', 'onnx')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "predict", "--bundle", str(ecg_bundle), str(ecg_file), "--json"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
