from __future__ import annotations

import doctest
import hashlib
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy import files
from ibt_deploy.errors import InputError
from ibt_deploy.files import File, MemoryFile, MemoryFolder
from ibt_deploy.predictions import Prediction, Refusal
from ibt_deploy.predictor import Predictor
from ibt_deploy.readers import items_of, read, task_of
from ibt_deploy.records import Recording
from tests.helpers.wfdb_records import write_record


def in_memory(folder: Path, label: str = "upload.zip") -> MemoryFolder:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return MemoryFolder(found, label)


def test_the_example() -> None:
    assert doctest.testmod(files).attempted > 0
    assert doctest.testmod(files).failed == 0


@pytest.mark.parametrize("name", ["a.hea", "sub/b.tar.gz", "none", "sub/none.dat"])
def test_a_file_in_memory_behaves_as_the_same_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    for there in ("a.hea", "sub/b.tar.gz"):
        (tmp_path / there).write_bytes(there.encode())
    path, file = tmp_path / name, in_memory(tmp_path) / name
    assert isinstance(path, File)
    assert isinstance(file, File)
    for part in ("name", "stem", "suffix"):
        assert getattr(file, part) == getattr(path, part)
    assert file.is_file() == path.is_file()
    assert file.with_name("a.hea").is_file() == path.with_name("a.hea").is_file()
    assert (file.parent / "b.tar.gz").is_file() == (path.parent / "b.tar.gz").is_file()
    if path.is_file():
        assert file.read_bytes() == path.read_bytes()
        assert file.stat().st_size == path.stat().st_size
        with file.open("rb") as stream:
            assert stream.read() == path.read_bytes()
    else:
        for call in (file.read_bytes, file.stat):
            with pytest.raises(FileNotFoundError):
                call()
    with pytest.raises(ValueError, match="opened to read"):
        file.open("wb")  # type: ignore[arg-type]


def test_a_folder_lists_its_files() -> None:
    folder = MemoryFolder({"b": b"", "a/c": b""})
    assert [str(file) for file in folder] == ["b", "a/c"]
    assert all(isinstance(file, MemoryFile) and file.is_file() for file in folder)


def assert_alike(found: Recording, expected: Recording) -> None:
    np.testing.assert_array_equal(found.signal, expected.signal)
    for what in ("sampling_rate", "record_id", "leads", "format", "age", "sex", "notes", "warnings"):
        assert getattr(found, what) == getattr(expected, what)


@pytest.mark.parametrize("storage", ["16", "16+24"])
def test_a_record_in_memory_reads_as_on_disk(tmp_path: Path, storage: str) -> None:
    header = write_record(tmp_path, storage=storage)
    (expected,) = read(header)
    for path in tmp_path.iterdir():
        (found,) = read(in_memory(tmp_path) / path.name)
        assert isinstance(found, Recording)
        assert isinstance(expected, Recording)
        assert_alike(found, expected)
        assert found.source == f"upload.zip/{path.name}"


def test_every_storage_format_reads_from_memory(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    disk = shared / "data" / "formats" / "wfdb"
    folder = in_memory(disk)
    for name in ("binformats.hea", "flacformats.hea", "a103l.hea", "100skew.hea"):
        try:
            (expected,) = read(disk / name)
        except InputError as error:
            with pytest.raises(type(error), match=re.escape(error.message)):
                read(folder / name)
            continue
        (found,) = read(folder / name)
        assert isinstance(found, Recording)
        assert isinstance(expected, Recording)
        assert_alike(found, expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.psv", "a.csv", "a.parquet"])
def test_stays_in_memory_read_as_on_disk(tmp_path: Path, root: Path, name: str) -> None:
    import pandas as pd

    table = pd.read_csv(root / "examples" / "stay.psv", sep="|")
    path = tmp_path / name
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="|" if path.suffix == ".psv" else ",", index=False)
    file = in_memory(tmp_path) / name
    assert task_of(file) == "sepsis"
    (expected,), (found,) = list(items_of(path)), list(items_of(file))
    assert not isinstance(expected, Recording | Refusal)
    assert not isinstance(found, Recording | Refusal)
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.format == expected.format
    assert found.source == f"upload.zip/{name}"


def test_predictions_from_memory_equal_those_from_disk(tmp_path: Path, ecg: Predictor) -> None:
    header = write_record(tmp_path)
    file = in_memory(tmp_path) / header.name
    expected = ecg.predict(header)
    found = ecg.predict(file)
    assert [f.probability for f in found.findings] == [f.probability for f in expected.findings]
    good, bad = ecg.predict_many([file, in_memory(tmp_path) / "none.hea"])
    assert isinstance(good, Prediction)
    assert isinstance(bad, Refusal)
    assert (bad.source, bad.code) == ("upload.zip/none.hea", "no_such_file")


@pytest.mark.parametrize("signal_file", ["../r1.dat", "/etc/passwd", "none.dat", "sub/../r1.dat"])
def test_a_header_in_memory_cannot_name_files_elsewhere(tmp_path: Path, signal_file: str) -> None:
    header = write_record(tmp_path).read_text().replace("r1.dat", signal_file)
    samples = (tmp_path / "r1.dat").read_bytes()
    folder = MemoryFolder({"r1.hea": header.encode(), "r1.dat": samples})
    with pytest.raises(InputError) as caught:
        read(folder / "r1.hea")
    assert caught.value.code in ("unsafe_path", "missing_signal_file")


def test_an_empty_and_an_unknown_file_in_memory() -> None:
    folder = MemoryFolder({"a.hea": b"", "b": b"\x89PNG"}, "u")
    for name, code in (("a.hea", "empty_file"), ("b", "unsupported_format")):
        with pytest.raises(InputError) as caught:
            task_of(folder / name)
        assert (caught.value.code, caught.value.where) == (code, f"u/{name}")


def test_a_missing_package_costs_only_the_files_that_need_it(
    tmp_path: Path, ecg: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = write_record(tmp_path)
    dicom = tmp_path / "a.dcm"
    dicom.write_bytes(bytes(128) + b"DICM" + bytes(500))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    first, second, third = ecg.predict_many([header, dicom, header])
    assert isinstance(first, Prediction)
    assert isinstance(third, Prediction)
    assert isinstance(second, Refusal)
    assert second.code == "missing_extra"
    assert second.message.startswith(f"{dicom}: ")
    assert "pip install 'ibt[formats]'" in second.message


@given(st.one_of(st.binary(), st.text()))
def test_an_atomic_write_replaces_the_whole_file(content: bytes | str) -> None:
    expected = content.encode("utf-8") if isinstance(content, str) else content
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.json"
        path.write_bytes(b"an older and longer file" * 100)
        files.atomic_write(path, content)
        assert path.read_bytes() == expected
        assert list(Path(folder).iterdir()) == [path]
        assert files.file_sha256(path) == hashlib.sha256(expected).hexdigest()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with files.atomic_open(path) as stream:
            stream.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_library_may_write_the_temporary_path(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with files.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert not path.exists()
    assert path.read_text() == "new"


def test_an_error_names_the_file_and_not_its_temporary(tmp_path: Path) -> None:
    path = tmp_path / "none" / "out.txt"
    with pytest.raises(FileNotFoundError) as caught:
        files.atomic_write(path, "text")
    assert str(path) in str(caught.value)
    assert files.PARTIAL not in str(caught.value)
