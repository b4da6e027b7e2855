"""A run over a table of many patients."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers.bundles import stay
from helpers.exports_ecg import bytes_of

from ibt_deploy.batch.items import opened_stays
from ibt_deploy.batch.run import Options, run_batch
from ibt_deploy.batch.sources import stamped
from ibt_deploy.errors import InputError
from ibt_deploy.predictions import SepsisPrediction
from ibt_deploy.predictor import Predictor
from ibt_deploy.progress import BytesRead
from ibt_deploy.records import Stay
from ibt_deploy.vocabulary import INDEX, N_TIME_VARYING, NAMES


def patient(number: int) -> np.ndarray:
    """Rows of a patient whose values nobody takes for another unit: vital signs alone."""
    values = stay(hours=5 + number % 40, seed=number).values
    values[:, 1:N_TIME_VARYING] = np.nan
    rng = np.random.default_rng(number)
    for name, usual in {"O2Sat": 97, "Temp": 37, "SBP": 120, "MAP": 82, "Resp": 18}.items():
        values[:, INDEX[name]] = (usual * rng.normal(1, 0.02, len(values))).round(1)
    values[:, INDEX["O2Sat"]] = np.minimum(values[:, INDEX["O2Sat"]], 100)
    return values


STAYS = {f"s{number:03d}": patient(number) for number in range(60)}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty stays, rows shuffled; one goes back in time, and one row belongs to nobody."""
    frames = [pd.DataFrame(values, columns=NAMES).assign(patient_id=name) for name, values in STAYS.items()]
    rows = pd.concat(frames).sample(frac=1.0, random_state=0)
    doubled = rows[rows.patient_id == "s007"].head(1)
    nobody = rows.head(1).assign(patient_id="")
    path = tmp_path_factory.mktemp("table") / "icu.csv"
    pd.concat([rows, doubled, nobody]).to_csv(path, index=False)
    return path


def test_every_stay_is_scored_or_refused_once(
    table: Path, stay_bundle: Path, stays: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(sources=[str(table)], out=tmp_path / "o", bundle=stay_bundle, device="cpu", workers=1)
    tally = run_batch(options).tally
    assert "HR" in capsys.readouterr().err, "the columns are reported before anything is scored"
    scored = pd.concat(
        pq.read_table(part).to_pandas() for part in sorted((tmp_path / "o" / "predictions").iterdir())
    )
    refused = pd.concat(
        pq.read_table(part).to_pandas() for part in sorted((tmp_path / "o" / "refused").iterdir())
    )
    assert sorted(scored.record.unique()) == sorted(STAYS.keys() - {"s007"})
    assert sorted(refused.code) == ["doubled_hour", "missing_patient"]
    assert (tally.records, tally.n_refused, tally.inputs) == (59, 2, 61)
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["rows"] == len(scored) == sum(len(v) for name, v in STAYS.items() if name != "s007")
    assert summary["alarms"]["hours"] == scored.alarm.sum()
    assert summary["tables"]["patients"] == 60
    for name, rows in scored.groupby("record"):
        answer = stays.predict(Stay(STAYS[str(name)], str(name), "icu.csv", "test"))
        assert isinstance(answer, SepsisPrediction)
        assert rows.hour.tolist() == answer.hours.tolist()
        assert np.abs(rows.risk - answer.risk).max() < 1e-6
        assert rows.missing.tolist() == [len(missing) for missing in answer.missing]
        assert rows.alarm.tolist() == answer.alarms.tolist()


def test_number_of_workers_and_resuming_change_no_byte(
    table: Path, stay_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibt_deploy.batch.items._FEWEST_IN_PART", 16)
    runs = []
    for workers in (1, 2):
        out = tmp_path / f"o{workers}"
        options = Options(
            sources=[str(table)], out=out, bundle=stay_bundle, device="cpu", workers=workers, restart=True
        )
        run_batch(options)
        runs.append(bytes_of(out))
    assert len(runs[0]) == 10
    assert runs[0] == runs[1]
    for marker in sorted((out / ".batch" / "parts").iterdir())[1:3]:
        marker.unlink()
    (out / "predictions" / "part-00001.parquet").unlink()
    again = Options(sources=[str(table)], out=out, bundle=stay_bundle, device="cpu", resume=True)
    assert run_batch(again).tally.inputs == 61
    assert bytes_of(out) == runs[0]


def test_what_is_no_table_in_an_export_costs_only_itself(
    table: Path, stay_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    whole = table.read_bytes()
    (folder / "a.csv").write_bytes(whole)
    (folder / "cut.csv.gz").write_bytes(gzip.compress(whole)[:2000])
    (folder / "dangling.csv").symlink_to("nowhere")
    (folder / "empty.csv").touch()
    (folder / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (folder / "round.csv").symlink_to("round.csv")
    (folder / "sheet.csv").write_bytes(b"PK\3\4" + bytes(100))
    os.mkfifo(folder / "pipe.csv")
    alone = run_batch(Options(sources=[str(folder / "a.csv")], out=tmp_path / "1", bundle=stay_bundle)).tally
    options = Options(sources=[str(folder)], out=tmp_path / "2", bundle=stay_bundle, task="sepsis")
    tally = run_batch(options).tally
    assert tally.records == alone.records
    assert tally.refused - alone.refused == {
        "malformed_file": 1, "no_such_file": 1, "empty_file": 1, "not_text": 2, "unreadable_file": 1,
        "not_a_file": 1,
    }  # fmt: skip
    said = {Path(path).name: message for path, _, message in _refused_files(tmp_path / "2")}
    assert said["sheet.csv"] == "is not text, but an archive"


def _refused_files(out: Path) -> list[tuple[str, str, str]]:
    summary = json.loads((out / "summary.json").read_text())
    return [(path, code, message) for path, code, message in summary["tables"]["refused_files"]]


def test_a_column_in_another_unit_is_refused_before_anything_is_scored(
    table: Path, stay_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pd.read_csv(table)
    rows["Temp"] = rows["Temp"] * 1.8 + 32
    other = tmp_path / "fahrenheit.csv"
    rows.to_csv(other, index=False)
    with pytest.raises(InputError, match="Temp"):
        run_batch(Options(sources=[str(other)], out=tmp_path / "o", bundle=stay_bundle, device="cpu"))
    assert "  doubtful\n" in capsys.readouterr().err, "whoever corrects it sees all columns"
    assert not (tmp_path / "o" / "predictions").exists()


@pytest.mark.parametrize("first", ["impossible", "degF"])
def test_the_first_rows_of_a_large_table_refuse_only_what_is_evident(
    first: str,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = pd.read_csv(table).dropna(subset="patient_id").sort_values(["patient_id", "ICULOS"])
    begun = rows.index[:100]
    rows.loc[begun, "Temp"] = 3.0 if first == "impossible" else rows.loc[begun, "Temp"] * 1.8 + 32
    path = tmp_path / "large.csv"
    rows.to_csv(path, index=False)
    monkeypatch.setattr("ibt_deploy.batch.tables.open.LARGE", 1)
    excerpt = sum(map(len, path.read_bytes().splitlines(keepends=True)[: 1 + len(begun)]))
    monkeypatch.setattr("ibt_deploy.batch.tables.open.EXCERPT_BYTES", excerpt)
    if first == "impossible":
        assert opened_stays(stamped([str(path)]), None, tmp_path / "w").tables.report.doubts == ()
        said = capsys.readouterr().err
        assert "doubtful: Temp: 100% of the values are outside" in said
        assert "all rows decide" in said
        return
    monkeypatch.setattr("ibt_deploy.progress.BytesRead", None)
    with pytest.raises(InputError, match="looks like degF"):
        opened_stays(stamped([str(path)]), None, tmp_path / "w")


def test_an_error_does_not_join_the_line_that_says_how_much_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    now = iter(range(1000))
    monkeypatch.setattr("ibt_deploy.progress.monotonic", lambda: next(now))
    monkeypatch.setattr("ibt_deploy.progress.BytesRead", lambda _: BytesRead(1 << 30, terminal))
    (tmp_path / "a.csv").write_text("patient_id,ICULOS\n")
    with pytest.raises(InputError):
        opened_stays(stamped([str(tmp_path / "a.csv")]), None, tmp_path / "w")
    said = terminal.getvalue()
    assert "reading the tables: 0.0 of 1.1 GB (0 %)" in said
    assert said.removesuffix("\x1b[?25h").endswith("\n"), "an error begins on a line of its own"


def test_conversions_and_medians_are_said(table: Path, stay_bundle: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(table)
    rows = rows[(rows.patient_id != "s007") & rows.patient_id.notna()]
    same = {"O2Sat": "%", "SBP": "mmHg", "MAP": "mmHg", "Resp": "breaths/min"}
    rows.assign(minutes=rows.ICULOS * 60 - 30, t=rows.Temp * 1.8 + 32)[
        ["patient_id", "minutes", "t", *same]
    ].to_csv(tmp_path / "t.csv", index=False)
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(
        '[table]\npatient = "patient_id"\n[time]\nkind = "hours"\ncolumn = "minutes"\nunit = "min"\n'
        '[columns.Temp]\ncolumn = "t"\nunit = "degF"\n'
        + "".join(f'[columns.{name}]\ncolumn = "{name}"\nunit = "{unit}"\n' for name, unit in same.items())
    )
    out = tmp_path / "o"
    options = Options(
        sources=[str(tmp_path / "t.csv")],
        out=out,
        mapping=mapping,
        bundle=stay_bundle,
        device="cpu",
        workers=1,
        format="jsonl",
    )
    assert run_batch(options).tally.records == 59
    answers = (out / "predictions" / "part-00000.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(answer)["input"]["units_stated"] for answer in answers)
    notes = " ".join(json.loads((out / "summary.json").read_text())["tables"]["notes"])
    page = (out / "report.html").read_text(encoding="utf-8")
    for said in ("Temp from degF to", "medians within each hour"):
        assert said in notes
        assert said in page
    measured = rows.Temp.dropna()
    row = page[page.index("<th scope=row>Temp</th><td>degF</td>") :].partition("</tr>")[0]
    assert f"<td class=n>{len(measured):,}</td>" in row
    assert f"<td class=n>{measured.median():.4g}</td>" in row
