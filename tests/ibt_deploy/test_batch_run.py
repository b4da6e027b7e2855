"""A run from a data team's view: complete, the same however it is run, and resumable after any failure."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from helpers.exports_ecg import bytes_of, write_export

from ibt_deploy.batch import run
from ibt_deploy.batch.run import Options, run_batch
from ibt_deploy.errors import BatchError, MissingExtra
from ibt_deploy.predictor import Predictor
from ibt_deploy.readers import read
from ibt_deploy.records import Recording

COUNT = 150
KILLS = int(os.environ.get("IBT_KILLS", "5"))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records in folders; in the middle a damaged, an empty, a mislabelled and an alien file."""
    folder = tmp_path_factory.mktemp("export")
    headers = write_export(folder, COUNT)
    headers[40].with_suffix(".dat").write_bytes(b"short")
    (headers[50].parent / "x_empty.hea").touch()
    (headers[50].parent / "x_picture.dcm").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (headers[50].parent / "x_stay.psv").write_text("HR|O2Sat|Temp|SBP|MAP|ICULOS\n80|97|36.5|120|80|1\n")
    return folder


@pytest.fixture(scope="module")
def whole(export: Path, ecg_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run over ``export``."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run_batch(Options(sources=[str(export)], out=out, bundle=ecg_bundle, device="cpu", workers=1))
    return out


def command(export: Path, bundle: Path, out: Path, *more: str) -> list[str]:
    ibt = str(Path(sys.executable).with_name("ibt"))
    return [ibt, "batch", str(export), "--bundle", str(bundle), "--device", "cpu", "--out", str(out), *more]


def finished(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, **options)


def table(out: Path, kind: str) -> list[dict[str, Any]]:
    return [row for part in sorted((out / kind).iterdir()) for row in pq.read_table(part).to_pylist()]


def test_every_input_is_scored_or_refused_once(export: Path, whole: Path) -> None:
    scored, refused = table(whole, "predictions"), table(whole, "refused")
    expected = sorted(map(str, (*export.rglob("*.hea"), *export.rglob("x_*"))))
    assert sorted(row["source"] for row in (*scored, *refused)) == sorted(set(expected))
    assert {Path(row["source"]).name: row["code"] for row in refused} == {
        "e0040.hea": "truncated_file",
        "x_empty.hea": "empty_file",
        "x_picture.dcm": "unsupported_format",
        "x_stay.psv": "wrong_task",
    }
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["inputs"] == COUNT + 3
    assert (summary["records"], summary["refusals"]) == (len(scored), len(refused)) == (COUNT - 1, 4)
    assert sum(summary["refused"].values()) == summary["refusals"]
    assert summary["records"] + summary["refusals"] == summary["answers"]
    assert all(sum(row[f"pos_{name}"] for row in scored) == n for name, n in summary["positives"].items())


def test_answers_are_those_of_the_predictor(export: Path, whole: Path, ecg: Predictor) -> None:
    scored = {row["source"]: row for row in table(whole, "predictions")}
    for header in sorted(export.rglob("e*.hea"))[::29]:
        answer, row = ecg.predict(header).to_dict(), scored[str(header)]
        for finding in answer["findings"]:
            name = min(finding["abbreviation"].split("|"), key=len)
            assert row[f"p_{name}"] == pytest.approx(finding["probability"], abs=2e-6)
            assert row[f"pos_{name}"] == finding["positive"] == (name in row["findings"])
            assert (name in row["alternatives"]) == (finding["status"] == "alternative")
            windows = finding["windows"]
            shown = [row[f"{column}_{name}"] for column in ("share", "max", "max_at")]
            expected = [windows["share"], windows["highest"], windows["highest_at"]]
            assert shown == pytest.approx(expected, abs=2e-6)
        assert row["changes"] == answer["input"]["changes"]
        assert row["warnings"] == [warning["code"] for warning in answer["warnings"]]
    described = json.loads(
        pq.read_schema(whole / "predictions" / "part-00000.parquet").metadata[b"ibt.classes"]
    )
    assert [c["threshold"] for c in described] == pytest.approx(ecg.thresholds.tolist())


def test_number_of_workers_changes_no_byte(
    export: Path, whole: Path, ecg_bundle: Path, tmp_path: Path
) -> None:
    run_batch(Options(sources=[str(export)], out=tmp_path / "o", bundle=ecg_bundle, device="cpu", workers=2))
    assert bytes_of(tmp_path / "o") == bytes_of(whole)
    assert (tmp_path / "o" / "report.html").read_bytes() == (whole / "report.html").read_bytes()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_other_formats_hold_the_same(
    export: Path, whole: Path, ecg_bundle: Path, tmp_path: Path, form: Any
) -> None:
    out = tmp_path / "o"
    run_batch(Options(sources=[str(export)], out=out, bundle=ecg_bundle, device="cpu", format=form))
    expected = table(whole, "predictions")
    parts = sorted((out / "predictions").iterdir())
    if form == "jsonl":
        rows = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
        assert [row["record"] for row in rows] == [row["record"] for row in expected]
        assert len(rows[0]["findings"]) == 26
        return
    found = [row for part in parts for row in pyarrow.csv.read_csv(part).to_pylist()]
    for a, b in zip(found, expected, strict=True):
        assert (a["record"], a["p_AF"]) == (b["record"], pytest.approx(b["p_AF"], abs=1e-6))
        assert (a["findings"] or "") == "; ".join(b["findings"])


def test_a_run_that_is_there_is_not_begun_again_unasked(
    export: Path, whole: Path, ecg_bundle: Path, stay_bundle: Path, tmp_path: Path
) -> None:
    before = bytes_of(whole)
    again = Options(sources=[str(export)], out=whole, bundle=ecg_bundle, device="cpu")
    with pytest.raises(BatchError, match="finished run; --resume"):
        run_batch(again)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(BatchError, match="holds something else"):
        run_batch(Options(sources=[str(export)], out=tmp_path, bundle=ecg_bundle, device="cpu"))
    assert bytes_of(whole) == before
    assert finished(command(export, ecg_bundle, whole, "--resume")).returncode == 1
    assert bytes_of(whole) == before


def test_an_empty_folder_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for more in ({}, {"task": "arrhythmia"}, {"task": "sepsis"}):
        options = Options(sources=[str(tmp_path / "in")], out=tmp_path / "o", device="cpu", **more)  # type: ignore[arg-type]
        with pytest.raises(BatchError, match="the sources hold no file"):
            run_batch(options)
        assert not (tmp_path / "o").exists(), "a run without a plan leaves nothing behind"


def test_a_run_below_its_source_can_be_resumed(ecg_bundle: Path, tmp_path: Path) -> None:
    write_export(tmp_path, 2)
    first = command(tmp_path, ecg_bundle, tmp_path / "scores")
    assert finished(first).returncode == 0
    before = bytes_of(tmp_path / "scores")
    again = finished([*first, "--resume"])
    assert again.returncode == 0, again.stderr
    assert bytes_of(tmp_path / "scores") == before


def test_changed_inputs_another_bundle_or_format_are_noticed(
    ecg_bundle: Path, ecg_copy: Path, tmp_path: Path
) -> None:
    headers = write_export(tmp_path / "in", 3)
    first = command(tmp_path / "in", ecg_bundle, tmp_path / "o")
    assert finished(first).returncode == 0
    before = bytes_of(tmp_path / "o")
    contract = ecg_copy / "bundle.json"
    contract.write_text(contract.read_text().replace("0.0.1", "0.0.2"))
    other = finished(command(tmp_path / "in", ecg_copy, tmp_path / "o", "--resume"))
    assert (other.returncode, "hash of the bundle" in other.stderr) == (2, True), other.stderr
    form = finished([*first, "--resume", "--format", "csv"])
    assert "format was parquet, is csv" in form.stderr
    data = headers[1].with_suffix(".dat")
    os.utime(data, ns=(0, 0))
    headers[2].unlink()
    changed = finished([*first, "--resume"])
    assert "1 new, 1 gone, 1 changed" in changed.stderr
    assert changed.stderr.count("\n") == 1
    assert bytes_of(tmp_path / "o") == before
    again = finished([*first, "--restart"])
    assert again.returncode == 1, "the lonely signal file is refused"
    assert bytes_of(tmp_path / "o") != before


def test_killed_at_any_moment_it_resumes_to_the_same_bytes(
    export: Path, whole: Path, ecg_bundle: Path, tmp_path: Path
) -> None:
    rng = random.Random(os.environ.get("IBT_SEED"))
    out, expected = tmp_path / "o", bytes_of(whole)
    start = time.monotonic()
    assert finished(command(export, ecg_bundle, tmp_path / "timed", "--workers", "2")).returncode == 1
    usual = time.monotonic() - start
    for kill in range(KILLS):
        process = subprocess.Popen(
            command(export, ecg_bundle, out, "--restart" if kill % 4 == 0 else "--resume"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(rng.uniform(0.3, 1.0) * usual)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for path in (out / "predictions").glob("part-*.parquet"):
            assert path.read_bytes() == expected[f"predictions/{path.name}"], "a part is whole or not there"
    assert finished(command(export, ecg_bundle, out, "--resume")).returncode == 1
    assert bytes_of(out) == expected
    assert (out / "report.html").read_bytes() == (whole / "report.html").read_bytes()


def test_ctrl_c_says_how_to_go_on(export: Path, whole: Path, ecg_bundle: Path, tmp_path: Path) -> None:
    for _ in range(5):  # on a busy machine the run may end before it can be interrupted
        shutil.rmtree(tmp_path / "o", ignore_errors=True)
        process = subprocess.Popen(
            command(export, ecg_bundle, tmp_path / "o"),
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        while not (tmp_path / "o" / ".batch" / "parts").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        if process.returncode != 1:
            break
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("ibt: interrupted; ")
    assert "--resume continues" in said
    finished(command(export, ecg_bundle, tmp_path / "o", "--resume"))
    assert bytes_of(tmp_path / "o") == bytes_of(whole)


def test_a_full_disk_is_one_line_and_resumable(
    export: Path, whole: Path, ecg_bundle: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands for a full disk: both are an OSError of a write."""
    largest = max(len(content) for content in bytes_of(whole).values())
    plan = (whole / ".batch" / "plan.jsonl").stat().st_size
    assert plan < largest - 1000
    limit = largest - 1000
    arguments = command(export, ecg_bundle, tmp_path / "o", "--workers", "1")
    full = finished(arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert full.returncode == 2
    assert full.stderr.count("\n") == 1
    assert "File too large" in full.stderr
    assert "--resume" in full.stderr
    assert not list(tmp_path.rglob("*.partial"))
    assert finished([*arguments, "--resume"]).returncode == 1
    assert bytes_of(tmp_path / "o") == bytes_of(whole)


READER = """
import os, signal
NAME, TASK = "fatal", "arrhythmia"

def sniff(file, head):
    return head.startswith(b"FATAL")

def read(file):
    if b"raise" in file.read_bytes():
        raise RecursionError("too deep")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_reader_that_kills_its_process_costs_only_its_record(
    ecg_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    (site / "fatal-1.dist-info").mkdir(parents=True)
    (site / "fatal_reader.py").write_text(READER)
    (site / "fatal-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fatal\nVersion: 1\n")
    (site / "fatal-1.dist-info" / "entry_points.txt").write_text("[ibt.readers]\nfatal = fatal_reader\n")
    monkeypatch.syspath_prepend(site)
    headers = write_export(tmp_path / "in", 12)
    (headers[3].parent / "e0003b.ecg").write_bytes(b"FATAL")
    (headers[7].parent / "e0007b.ecg").write_bytes(b"FATAL raise")
    result = run_batch(
        Options(
            sources=[str(tmp_path / "in")],
            out=tmp_path / "o",
            bundle=ecg_bundle,
            device="cpu",
            task="arrhythmia",
        )
    )
    refused = table(tmp_path / "o", "refused")
    assert [(Path(row["source"]).name, row["code"]) for row in refused] == [
        ("e0003b.ecg", "worker_died"),
        ("e0007b.ecg", "worker_died"),
    ]
    assert "exit status -9" in refused[0]["message"]
    assert "RecursionError: too deep" in refused[1]["message"]
    assert result.tally.records == 12
    capfd.readouterr()


def test_a_folder_that_goes_away_stops_the_run(
    ecg_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_export(tmp_path / "in", 12)
    score: Callable[..., None] = run._score

    def gone(*arguments: Any) -> None:
        shutil.move(tmp_path / "in" / "ward01", tmp_path / "away")
        score(*arguments)

    monkeypatch.setattr(run, "_score", gone)
    options = Options(sources=[str(tmp_path / "in")], out=tmp_path / "o", bundle=ecg_bundle, device="cpu")
    with pytest.raises(BatchError, match=r"ward01: cannot be read any more.*0 of 1 parts are done"):
        run_batch(options)
    shutil.move(tmp_path / "away", tmp_path / "in" / "ward01")
    monkeypatch.setattr(run, "_score", score)
    assert run_batch(replace(options, resume=True)).tally.records == 12


def test_the_report_needs_nothing_from_elsewhere(whole: Path) -> None:
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "Research software, not a medical device." in page
    assert "truncated_file" in page
    assert "e0040.dat is truncated: the header claims" in page, "an example of each reason"
    for outside in ("http:", "https:", "src=", "href=", "@import", "url("):
        assert outside not in page


def test_a_missing_package_is_said_before_anything_is_scored(
    export: Path, ecg_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"ibt\[batch\]"):
        run_batch(Options(sources=[str(export)], out=tmp_path / "o", bundle=ecg_bundle, device="cpu"))
    assert not (tmp_path / "o").exists()


def test_what_lacked_a_package_is_tried_again_when_it_is_there(
    export: Path, ecg_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibt_deploy.writers import write

    folder = tmp_path / "in"
    folder.mkdir()
    (recording,) = read(next(export.rglob("e0001.hea")))
    assert isinstance(recording, Recording)
    write(recording, folder / "a.dcm")
    shutil.copy(next(export.rglob("e0001.hea")), folder)
    shutil.copy(next(export.rglob("e0001.dat")), folder)
    options = command(folder, ecg_bundle, tmp_path / "lacking")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys; sys.modules['pydicom'] = None")
    lacking = finished(options, env=os.environ | {"PYTHONPATH": str(hidden)})
    assert lacking.returncode == 1
    assert "1 of them need a package that is not installed" in lacking.stderr
    again = finished([*options, "--resume"], env=os.environ | {"PYTHONPATH": str(hidden)})
    assert json.loads((tmp_path / "lacking" / "summary.json").read_text())["run"]["inputs_before"] == 2
    assert again.returncode == 1
    assert finished([*options, "--resume"]).returncode == 0
    assert finished(command(folder, ecg_bundle, tmp_path / "whole")).returncode == 0
    assert bytes_of(tmp_path / "lacking") == bytes_of(tmp_path / "whole")
    for marker in (tmp_path / "lacking" / ".batch" / "parts").iterdir():
        marker.unlink()
    gone = finished([*options, "--resume"], env=os.environ | {"PYTHONPATH": str(hidden)})
    assert gone.returncode == 1, "the package was there before and is not any more"
    assert finished([*options, "--resume"]).returncode == 0
    assert bytes_of(tmp_path / "lacking") == bytes_of(tmp_path / "whole")


def test_an_error_of_the_whole_run_says_its_code(stay_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[table]\nnonsense = 1\n")
    (tmp_path / "a.csv").write_text("x\n1\n")
    arguments = command(tmp_path / "a.csv", stay_bundle, tmp_path / "out")
    said = finished([*arguments, "--map", str(tmp_path / "bad.toml")])
    assert said.returncode == 2
    assert said.stderr.rstrip().endswith("[bad_mapping]")
    assert said.stderr.count("\n") == 1


def test_a_compressed_table_among_ecgs_is_no_archive(export: Path, ecg_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for suffix in (".hea", ".dat"):
        shutil.copy(next(export.rglob(f"e0001{suffix}")), folder)
    with gzip.open(folder / "labs.csv.gz", "wt") as stream:
        stream.write("patient_id,ICULOS,HR\n1,1,80\n")
    out = tmp_path / "out"
    run_batch(Options(sources=[str(folder)], out=out, bundle=ecg_bundle, device="cpu"))
    (row,) = table(out, "refused")
    assert row["code"] == "unsupported_format"
    assert "a compressed table; 'ibt batch --task sepsis' reads" in row["message"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_with_something_else_stays_as_it_is(
    export: Path, ecg_bundle: Path, tmp_path: Path, restart: bool
) -> None:
    (tmp_path / "thesis.tex").touch()
    options = Options(sources=[str(export)], out=tmp_path, bundle=ecg_bundle, device="cpu", restart=restart)
    with pytest.raises(BatchError, match=r"thesis\.tex"):
        run_batch(options)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
