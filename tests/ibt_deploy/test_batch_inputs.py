"""Which inputs a run finds, in which order, and how it handles archives."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.exports_ecg import write_export
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy.batch import archives
from ibt_deploy.batch.archives import Archive, archive_entries
from ibt_deploy.batch.items import Item, PlannedFiles
from ibt_deploy.batch.plan import (
    Entry,
    FileEntry,
    MemberEntry,
    Plan,
    RefusedEntry,
    from_line,
    grouped,
    part_size,
    source_of,
    stored_plan,
    to_line,
    written_plan,
)
from ibt_deploy.batch.run import Options, run_batch
from ibt_deploy.batch.sources import entries_of
from ibt_deploy.errors import BatchError, InputError
from ibt_deploy.predictions import Refusal
from ibt_deploy.readers import read
from ibt_deploy.records import Recording


def no_header(name: str) -> str:
    raise AssertionError(f"{name} need not be read")


def names(entries: Iterable[Entry]) -> list[str]:
    return [source_of(entry) for entry in entries]


def answers(plan: Plan) -> list[Item]:
    """Everything in the first part."""
    with closing(PlannedFiles(plan)) as items:
        return list(items.read(0, {}, lambda place: None))


def test_signal_files_belong_to_their_header() -> None:
    files = ["b.mat", "b.hea", "a_1.dat", "a_2.dat", "a.hea", "a.atr"]
    assert grouped(files, no_header) == [
        ("a.hea", ("a.atr", "a_1.dat", "a_2.dat")),
        ("b.hea", ("b.mat",)),
    ]


def test_a_signal_file_of_another_name_is_found_in_the_header() -> None:
    header = "r 1 500 5000\nsignals.dat 16 1000/mV 16 0 0 0 0 I\n"
    assert grouped(["r.hea", "signals.dat"], lambda name: header) == [("r.hea", ("signals.dat",))]


def test_other_formats_beside_a_header_are_records_of_their_own() -> None:
    found = grouped(["x.hea", "x.dat", "x.dcm", "x.xml", "y.npy", "y.json", "notes.pdf"], lambda name: "")
    assert [main for main, _ in found] == ["notes.pdf", "x.dcm", "x.hea", "x.xml", "y.npy"]


def test_a_layout_belongs_to_every_array_beside_it() -> None:
    found = grouped(["layout.toml", "x.npy", "y.npy", "z.dcm"], no_header)
    assert found == [("x.npy", ("layout.toml",)), ("y.npy", ("layout.toml",)), ("z.dcm", ())]
    assert grouped(["layout.toml", "z.dcm"], no_header) == [("layout.toml", ()), ("z.dcm", ())]


@given(st.lists(st.sampled_from(["a", "b", "a_1", "c"]), max_size=4), st.randoms())
def test_every_file_is_in_exactly_one_record(stems: list[str], shuffle: random.Random) -> None:
    suffixes = (".hea", ".dat", ".mat", ".json", ".npy", ".dcm", ".xyz")
    files = sorted({stem + suffix for stem in stems for suffix in suffixes})
    found = grouped(files, lambda name: "")
    assert sorted(n for main, rest in found for n in (main, *rest)) == files
    shuffle.shuffle(files)
    assert grouped(files, lambda name: "") == found


def test_folders_are_walked_in_order_and_hidden_files_left_out(tmp_path: Path) -> None:
    headers = write_export(tmp_path / "export", 12)
    (tmp_path / "export" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "export" / "readme.md").write_text("what this is")
    found = list(entries_of([str(tmp_path / "export")]))
    assert names(found) == [str(tmp_path / "export" / "readme.md"), *map(str, headers)]
    assert all(isinstance(entry, FileEntry) and len(entry.companions) == 1 for entry in found[1:])


def test_a_link_to_itself_costs_only_itself(tmp_path: Path) -> None:
    headers = write_export(tmp_path / "export", 3)
    (tmp_path / "export" / "round.hea").symlink_to("round.hea")
    (tmp_path / "export" / "loop").symlink_to(tmp_path / "export")
    plan = written_plan(tmp_path / "plan", entries_of([str(tmp_path / "export")]))
    found = answers(plan)
    assert [item.code for item in found if isinstance(item, Refusal)] == ["unreadable_file"]
    assert sum(isinstance(item, Recording) for item in found) == len(headers)


def test_what_is_named_twice_is_listed_once(tmp_path: Path) -> None:
    headers = write_export(tmp_path, 3)
    listing = tmp_path / "list.txt"
    listing.write_text("# a comment\n" + "\n".join(str(h.relative_to(tmp_path)) for h in headers))
    alone = names(entries_of([f"@{listing}"]))
    assert alone == [str(h) for h in headers]
    assert names(entries_of([str(listing), str(headers[0]), str(headers[0].with_suffix(".dat"))])) == alone
    assert names(entries_of([str(headers[1]), str(tmp_path / "ward00")])) == alone
    assert names(entries_of([str(tmp_path / "ward*" / "*.hea")])) == alone


def test_a_listed_file_that_is_not_there_is_refused_and_a_source_is_an_error(tmp_path: Path) -> None:
    headers = write_export(tmp_path, 1)
    listing = tmp_path / "list.txt"
    listing.write_text(f"{headers[0]}\n{tmp_path / 'gone.hea'}\n")
    found = list(entries_of([str(listing)]))
    assert isinstance(found[1], RefusedEntry)
    assert found[1].code == "no_such_file"
    with pytest.raises(BatchError, match="no such file"):
        list(entries_of([str(tmp_path / "nowhere")]))
    with pytest.raises(BatchError, match="matches no file"):
        list(entries_of([str(tmp_path / "*.nothing")]))


def test_a_folder_that_cannot_be_listed_stops_before_anything_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_export(tmp_path / "export", 1)
    scandir = os.scandir

    def refuse(place: str) -> Any:
        if "ward00" in str(place):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr("ibt_deploy.batch.sources.os.scandir", refuse)
    with pytest.raises(BatchError, match=r"ward00: cannot be read \(Permission denied\)"):
        list(entries_of([str(tmp_path / "export")]))


def test_plan_is_cut_by_the_number_of_inputs_alone(tmp_path: Path) -> None:
    entries = [FileEntry(f"f{i}", (i, i)) for i in range(150)]
    plan = written_plan(tmp_path / "plan", entries)
    assert (plan.inputs, plan.per_part, len(plan)) == (150, 64, 3)
    assert [e for part in range(3) for e in plan.entries(part)] == entries
    assert stored_plan(tmp_path / "plan") == plan
    assert written_plan(tmp_path / "other", reversed(entries)).fingerprint != plan.fingerprint
    assert part_size(1) == 64
    assert part_size(10**6) == 1024


def test_entries_survive_the_plan_file() -> None:
    for entry in (
        FileEntry("a\udcff.hea", (1, 2), (("a.dat", (3, 4)),)),
        MemberEntry("x.zip", (1, 2), "d/a.hea", (("d/a.hea", 0, 9), ("d/a.dat", 512, 7))),
        RefusedEntry("x.zip/b", "encrypted", "x.zip/b: encrypted"),
    ):
        assert from_line(to_line(entry)) == entry


def archived(folder: Path, archive: Path) -> Path:
    """An archive of ``folder``, members in an order of their own."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    random.Random(1).shuffle(files)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            for path in files:
                out.write(path, path.relative_to(folder).as_posix())
        return archive
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz" if archive.name.endswith("gz") else "w") as tar:
        for path in files:
            tar.add(path, path.relative_to(folder).as_posix())
    content = data.getvalue()
    if archive.suffix == ".zst":
        pa, half = pytest.importorskip("pyarrow"), len(content) // 2
        # two frames, as zstd writes when archives are joined or compressed by several threads
        parts = (pa.compress(part, codec="zstd", asbytes=True) for part in (content[:half], content[half:]))
        content = b"".join(parts)
    archive.write_bytes(content)
    return archive


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.zst"])
def test_an_archive_reads_as_the_folder_it_was_made_of(tmp_path: Path, name: str) -> None:
    headers = write_export(tmp_path / "export", 12)
    archive = archived(tmp_path / "export", tmp_path / name)
    plan = written_plan(tmp_path / "plan", entries_of([str(archive)]))
    assert plan.inputs == len(headers)
    before = sorted(path.name for path in tmp_path.iterdir())
    read = {r.record_id: r for r in answers(plan) if isinstance(r, Recording)}
    assert before == sorted(path.name for path in tmp_path.iterdir()), "nothing is unpacked"
    expected = written_plan(tmp_path / "plan2", entries_of([str(tmp_path / "export")]))
    for recording in answers(expected):
        assert isinstance(recording, Recording)
        found = read[recording.record_id]
        assert (found.signal == recording.signal).all()
        assert found.source.startswith(f"{archive}/ward")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar.zst"])
def test_a_compressed_archive_in_any_order_is_decompressed_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = write_export(tmp_path / "export", 30)
    archive = archived(tmp_path / "export", tmp_path / name)
    plan = written_plan(tmp_path / "plan", entries_of([str(archive)]))
    opened = []
    real = archives._uncompressed
    monkeypatch.setattr(archives, "_uncompressed", lambda path: opened.append(path) or real(path))
    found = answers(plan)
    assert len(found) == len(headers)
    assert all(isinstance(answer, Recording) for answer in found)
    assert len(opened) == 1


def test_an_encrypted_member_and_one_too_large_cost_only_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archived(_export(tmp_path), tmp_path / "x.zip")
    content = bytearray(archive.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1  # flag of the first member
    archive.write_bytes(content)
    found = list(archive_entries(str(archive)))
    assert [e.code for e in found if isinstance(e, RefusedEntry)][:1] == ["encrypted"]
    assert sum(isinstance(e, MemberEntry) for e in found) >= 11

    monkeypatch.setattr(archives, "MAX_RECORD_BYTES", 100)
    codes = {e.code for e in archive_entries(str(archive)) if isinstance(e, RefusedEntry)}
    assert codes == {"encrypted", "member_too_large"}


def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED_BYTES", 1 << 20)
    bomb = tmp_path / "bomb.tar.gz"
    with tarfile.open(bomb, "w:gz") as tar:
        for number in range(40):
            info = tarfile.TarInfo(f"z{number}.bin")
            info.size = 1 << 20
            tar.addfile(info, io.BytesIO(bytes(1 << 20)))
    found = list(archive_entries(str(bomb)))
    assert isinstance(found[-1], RefusedEntry)
    assert found[-1].code == "archive_too_large"
    assert len(found) < 40


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.zst"])
def test_a_damaged_archive_is_refused_and_what_lies_before_is_read(tmp_path: Path, name: str) -> None:
    archive = archived(_export(tmp_path), tmp_path / name)
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    plan = written_plan(tmp_path / "plan", entries_of([str(archive)]))
    found = answers(plan)
    codes = {a.code for a in found if isinstance(a, Refusal)}
    assert "damaged_archive" in codes
    if name != "x.zip":  # its list of members is at its end
        assert any(isinstance(a, Recording) for a in found)


def refused_of(path: Path) -> list[RefusedEntry]:
    """Refusals of an archive, when it is listed and when it is read."""
    found = []
    with Archive(str(path)) as archive:
        for entry in archive_entries(str(path)):
            if isinstance(entry, RefusedEntry):
                assert "\n" not in entry.message
                found.append(entry)
                continue
            assert isinstance(entry, MemberEntry)
            try:
                archive.folder(entry).read_bytes()
            except InputError as error:
                found.append(RefusedEntry(source_of(entry), error.code, error.message))
    return found


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"12345")
    return path


def test_a_zip_whose_members_lie_before_its_beginning(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", "a.dcm", "b.dcm")
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\5\6") + 16
    struct.pack_into("<I", data, place, struct.unpack_from("<I", data, place)[0] + 1000)
    path.write_bytes(data)
    assert [entry.code for entry in refused_of(path)] == ["damaged_archive"] * 2


def test_a_zip_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", "\u00e4.dcm")
    path.write_bytes(path.read_bytes().replace("\u00e4".encode(), b"\x8a\x8a"))
    assert [entry.code for entry in refused_of(path)] == ["damaged_archive"]


def test_members_without_a_name_and_with_a_broken_line_in_it(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.dcm", "b.dcm"):
            archive.writestr(name, b"12345")
        archive.filelist[0].filename = ""
    assert [entry.source for entry in refused_of(path)] == [f"{path}/"]
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a\nb.dcm", "./"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "elsewhere"
            tar.addfile(link)
    assert [entry.code for entry in refused_of(path)] == ["not_a_file", "not_a_file"]


def test_absolute_names_in_an_archive(tmp_path: Path) -> None:
    (header,) = write_export(tmp_path / "export", 1)
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for part in (header, header.with_suffix(".dat")):
            info = zipfile.ZipInfo("part")
            info.filename = f"/{part.name}"
            archive.writestr(info, part.read_bytes())
    (entry,) = archive_entries(str(path))
    assert isinstance(entry, MemberEntry)
    with Archive(str(path)) as opened:
        assert len(read(opened.folder(entry))) == 1


@pytest.mark.parametrize("name", ["x.zip", "x.tar"])
def test_an_archive_without_a_file_is_refused_not_passed_over(tmp_path: Path, name: str) -> None:
    if name == "x.zip":
        zipfile.ZipFile(tmp_path / name, "w").close()
    else:
        (tmp_path / name).write_bytes(bytes(20480))
    (entry,) = entries_of([str(tmp_path)])
    assert isinstance(entry, RefusedEntry)
    assert (entry.source, entry.code) == (str(tmp_path / name), "no_recording")


def _export(tmp_path: Path) -> Path:
    write_export(tmp_path / "export", 12)
    return tmp_path / "export"


def written_file_set(folder: Path) -> list[Path]:
    """A DICOM file set of two ECGs, an image and a report, written by pydicom; returns the ECGs."""
    dcmread = pytest.importorskip("pydicom").dcmread
    from helpers.dicom_records import channel, dicom, group
    from pydicom.dataset import Dataset
    from pydicom.fileset import FileSet
    from pydicom.uid import CTImageStorage, EnhancedSRStorage, TwelveLeadECGWaveformStorage, generate_uid

    (recording,) = read(Path(__file__).parents[2] / "examples" / "recording.hea")
    assert isinstance(recording, Recording)
    raw = np.nan_to_num(np.asarray(recording.signal) * 400).astype(np.int16)  # 2.5 uV each
    found = FileSet()
    kinds = {"ECG": TwelveLeadECGWaveformStorage, "CT": CTImageStorage, "SR": EnhancedSRStorage}
    for number, modality in enumerate(("ECG", "CT", "ECG", "SR")):
        stated: dict[str, Any] = {
            "PatientID": "1", "PatientName": "", "StudyInstanceUID": "1.2.3", "StudyID": "1",
            "StudyDate": "20210301", "StudyTime": "1000", "SeriesInstanceUID": generate_uid(),
            "Modality": modality, "SeriesNumber": number, "InstanceNumber": number,
            "ContentDate": "20210301", "ContentTime": "1000", "CompletionFlag": "COMPLETE",
            "VerificationFlag": "UNVERIFIED",
        }  # fmt: skip
        groups = (
            [group(raw, [channel(lead) for lead in recording.leads], rate=recording.sampling_rate)]
            if modality == "ECG"
            else []
        )
        if modality == "SR":
            code = Dataset()
            code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "11524-6", "LN", "EKG study"
            stated["ConceptNameCodeSequence"] = [code]
        found.add(dcmread(BytesIO(dicom(*groups, sop_class=kinds[modality], **stated))))
    found.write(folder)
    ecgs = sorted(Path(instance.path) for instance in found if instance.Modality == "ECG")
    found._stage["t"].cleanup()  # pydicom leaves closing to the garbage collector, which warns
    return ecgs


@pytest.mark.parametrize("source", ["", "DICOMDIR"])
def test_a_dicomdir_names_its_ecgs_and_what_is_ignored(tmp_path: Path, source: str) -> None:
    ecgs = written_file_set(tmp_path)
    assert all("." not in path.name for path in ecgs)
    ignored: Counter[str] = Counter()
    assert names(entries_of([str(tmp_path / source)], ignored)) == [str(path) for path in ecgs]
    assert ignored == {"CT Image Storage": 1, "Enhanced SR Storage": 1}
    beside = [str(tmp_path / "DICOMDIR"), str(ecgs[0])]
    assert sorted(names(entries_of(beside))) == [str(path) for path in ecgs]


def test_a_dicomdir_is_scored_and_says_what_it_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ecgs = written_file_set(tmp_path / "cd")
    (tmp_path / "cd" / "notes.txt").write_text("hello", encoding="utf-8")
    ecgs[0].unlink()
    result = run_batch(
        Options(sources=[str(tmp_path / "cd")], out=tmp_path / "out", format="jsonl", workers=1)
    )
    assert (result.tally.records, dict(result.tally.refused)) == (
        1,
        {"no_such_file": 1, "left_out": 1},
    )
    assert result.summary["ignored"] == {"CT Image Storage": 1, "Enhanced SR Storage": 1}
    assert "than ECG waveforms: 1 CT Image Storage, 1 Enhanced SR Storage" in capsys.readouterr().err


DOCUMENTS = {
    "index.csv": "record,file,age,sex,dx\nA0001,a.hea,74,Male,426783006\nA0002,b.hea,49,Female,164889003\n",
    "dx_mapping_scored.csv": "Dx,SNOMEDCTCode,Abbreviation\natrial fibrillation,164889003,AF\n",
    "LICENSE": "Creative Commons Attribution 4.0\n",
    "README.md": "# Recordings\n\n1 2\n3 4\n",
    "RECORDS": "A0001\nA0002\nA0003\n",
    "SHA256SUMS.txt": "00ff  A0001.hea\n11ee  A0002.hea\n",
    "cover.png": "\x89PNG",
}
NO_DOCUMENTS = {
    "damaged.dcm": ("nothing of DICOM", "unsupported_format"),
    "measured.csv": ("1,2,3\n4,5,6\n7,8,9\n", "unsupported_format"),
    "gaps.csv": ('a,b,c\n"1",NaN,"3"\n"4",NaN,"6"\n"7",NaN,"9"\n', "unsupported_format"),
    "vitals.csv": (
        "patient;zeit;puls;temp\np1;2020-01-01 10:00;88;37,2\np1;2020-01-01 11:00;90;37,4\n",
        "unsupported_format",
    ),
    "events.csv": (
        "subject_id,charttime,itemid,valuenum\n1,2020-01-01 10:00:00,220045,88\n",
        "unsupported_format",
    ),
    "lactate.csv": ("patient,hours,lactate\np-1,1,2.1\np-1,2,2.4\n", "unsupported_format"),
    "leads.txt": ("I II V1\nabc def ghi\n", "unsupported_format"),
    "record.ecg": ("a format of its own", "unsupported_format"),
    "empty.txt": ("", "empty_file"),
}


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_clearly_no_record_does_not_count_as_refused(tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "export"
    written_file_set(folder)
    (folder / "DICOMDIR").unlink()
    for path in folder.rglob("*"):
        if path.is_file() and read_or_none(path) is None:
            path.unlink()
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="latin-1")
    source = folder
    if packed:
        source = tmp_path / "export.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.write(path, str(path.relative_to(folder)))
    result = run_batch(
        Options(sources=[str(source)], out=tmp_path / "out", task="arrhythmia", format="jsonl", workers=1)
    )
    assert (result.tally.n_refused, result.tally.n_left_out) == (0, len(DOCUMENTS))
    assert (result.summary["refusals"], result.summary["refused"]) == (0, {})
    assert result.summary["left_out"] == len(DOCUMENTS)
    listed = (tmp_path / "out/refused/part-00000.jsonl").read_text(encoding="utf-8").splitlines()
    entries = list(map(json.loads, listed))
    assert {Path(entry["source"]).name for entry in entries} == DOCUMENTS.keys()
    assert {(entry["code"], entry["refused"]) for entry in entries} == {("left_out", False)}


def read_or_none(path: Path) -> object:
    try:
        return read(path)
    except InputError:
        return None


def test_what_may_be_a_record_is_refused_in_a_folder_too(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    for name, (text, _) in NO_DOCUMENTS.items():
        (folder / name).write_text(text)
    (folder / "LICENSE").write_text(DOCUMENTS["LICENSE"])
    options = Options(
        sources=[str(folder), str(folder / "LICENSE")], out=tmp_path / "out", task="arrhythmia", workers=1
    )
    assert run_batch(options).tally.refused == Counter(
        [code for _, code in NO_DOCUMENTS.values()] + ["left_out"]
    )
    named = Options(sources=[str(folder / "LICENSE")], out=tmp_path / "named", task="arrhythmia", workers=1)
    assert run_batch(named).tally.refused == {"unsupported_format": 1}


def test_a_dicomdir_leads_nowhere_else(tmp_path: Path) -> None:
    (ecg, other) = written_file_set(tmp_path / "cd")
    directory = tmp_path / "cd" / "DICOMDIR"
    outside = tmp_path / "OUTSIDE"
    outside.write_bytes(ecg.read_bytes())
    old = "\\".join(ecg.relative_to(tmp_path / "cd").parts).encode()
    new = b"..\\OUTSIDE".ljust(len(old))
    assert len(new) == len(old)
    directory.write_bytes(directory.read_bytes().replace(old, new))
    entries = list(entries_of([str(directory)]))
    assert [type(entry) for entry in entries] == [RefusedEntry, FileEntry]
    assert source_of(entries[1]) == str(other)


def test_a_damaged_dicomdir_is_refused_like_any_file(tmp_path: Path) -> None:
    written_file_set(tmp_path)
    path = tmp_path / "DICOMDIR"
    path.write_bytes(path.read_bytes()[:200])
    assert str(path) in names(entries_of([str(tmp_path)]))
