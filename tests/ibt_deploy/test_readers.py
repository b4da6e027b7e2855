from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ibt_deploy.errors import InputError, MalformedFile, UnsupportedFormat
from ibt_deploy.readers import READERS, read, task_of
from ibt_deploy.records import Recording, Stay
from tests.helpers.wfdb_records import write_record

PSV = "HR|O2Sat|ICULOS|SepsisLabel\n80|97|1|0\n82|NaN|2|0\n"


def refusal(path: Path, error: type[InputError]) -> str:
    for call in (read, task_of):
        with pytest.raises(error) as caught:
            call(path)
        assert caught.value.where == str(path)
        assert "\n" not in str(caught.value)
    return caught.value.code


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    renamed = write_record(tmp_path).rename(tmp_path / "header.csv")
    assert task_of(renamed) == "arrhythmia"
    assert isinstance(read(renamed)[0], Recording)


def test_task_of_each_kind(tmp_path: Path, root: Path) -> None:
    assert task_of(str(write_record(tmp_path))) == "arrhythmia"
    assert task_of(tmp_path / "r1.dat") == "arrhythmia"
    assert task_of(root / "examples" / "stay.psv") == "sepsis"
    assert isinstance(read(root / "examples" / "stay.psv")[0], Stay)


def test_no_such_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.hea", MalformedFile) == "no_such_file"


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a\0b.hea", MalformedFile) == "no_such_file"


def test_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path, UnsupportedFormat) == "is_a_folder"


@pytest.mark.parametrize("name", ["pipe.psv", "pipe.hea"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert refusal(tmp_path / name, UnsupportedFormat) == "not_a_file"


def test_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "endless.psv").symlink_to("/dev/zero")
    assert refusal(tmp_path / "endless.psv", UnsupportedFormat) == "not_a_file"


@pytest.mark.parametrize("name", ["a.hea", "a.psv", "a.mat", "a"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert refusal(tmp_path / name, MalformedFile) == "empty_file"


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"hello world\n", b"%PDF-1.7\n", bytes(2000)]
)
def test_unknown_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    assert refusal(tmp_path / "a.bin", UnsupportedFormat) == "unsupported_format"


def test_every_reader_keeps_the_contract() -> None:
    for name in READERS:
        module = __import__(f"ibt_deploy.readers.{name}", fromlist=["read"])
        assert module.TASK in ("arrhythmia", "sepsis")
        assert isinstance(module.NAME, str)
        assert callable(module.sniff)
        assert callable(module.read)


def test_reading_format_16_imports_neither_wfdb_nor_pandas_nor_scipy(tmp_path: Path) -> None:
    import subprocess

    path = write_record(tmp_path, storage="16+24")
    code = (
        "import sys; from ibt_deploy.readers import read; from ibt_deploy.preprocess.ecg import *;"
        f"windows(standardise(read({str(path)!r})[0]), EcgPreprocessing(scale=0.2, band=(0.5, 40.0)));"
        "print([m for m in ('wfdb', 'pandas', 'scipy', 'soundfile') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_record_name_without_its_suffix(tmp_path: Path) -> None:
    header = write_record(tmp_path, stem="E01496")
    (named,) = read(tmp_path / "E01496")
    assert isinstance(named, Recording)
    assert (named.record_id, named.source) == ("E01496", str(header))
    assert task_of(tmp_path / "E01496") == "arrhythmia"
    with pytest.raises(InputError) as caught:
        read(tmp_path / "E01497")
    assert caught.value.code == "no_such_file"
