from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ibt_deploy import readers
from ibt_deploy.errors import InputError, MalformedFile
from ibt_deploy.predictions import Refusal
from ibt_deploy.readers import items_of, read, task_of
from ibt_deploy.records import Recording

Install = Callable[[str, str], None]
BLOCK = re.compile(r"```python\n(\"\"\"Recordings of the Acme.*?)```", re.DOTALL)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a module of that text as a package with an entry point of that name."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    names: list[str] = []

    def installed(name: str, text: str) -> None:
        (site / f"{name}.py").write_text(text, encoding="utf-8")
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[ibt.readers]\n{name} = {name}\n")
        names.append(name)

    readers._entries.cache_clear()
    readers._loaded.cache_clear()
    yield installed
    readers._entries.cache_clear()
    readers._loaded.cache_clear()
    for name in names:
        sys.modules.pop(name, None)


def acme(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    samples = np.random.default_rng(0).integers(-300, 300, (3000, 8)).astype("<i2")
    path.write_bytes(b"ACME" + struct.pack("<HH", 500, 8) + samples.tobytes())
    return samples


def test_the_example_of_the_documentation(root: Path, tmp_path: Path, install: Install) -> None:
    found = BLOCK.search((root / "docs" / "formats.md").read_text(encoding="utf-8"))
    assert found is not None
    install("acme_ecg", found[1])
    samples = acme(tmp_path / "a.dat")
    assert task_of(tmp_path / "a.dat") == "arrhythmia"
    (recording,) = read(tmp_path / "a.dat")
    assert isinstance(recording, Recording)
    np.testing.assert_allclose(recording.signal, samples.T * 0.005)
    (tmp_path / "b.dat").write_bytes(b"ACME")
    with pytest.raises(MalformedFile) as caught:
        read(tmp_path / "b.dat")
    assert caught.value.code == "truncated_file"


def test_our_own_readers_come_first(tmp_path: Path, root: Path, install: Install) -> None:
    install("greedy", "NAME, TASK = 'greedy', 'arrhythmia'\nsniff = lambda f, h: 1 / 0\nread = None\n")
    assert task_of(root / "examples" / "stay.psv") == "sepsis"


def test_a_reader_of_many_stays_refuses_one_at_a_time(tmp_path: Path, install: Install) -> None:
    text = (
        "from ibt_deploy.errors import BadRows\nimport numpy as np\nfrom ibt_deploy.records import Stay\n"
        "NAME, TASK = 'rows', 'sepsis'\n"
        "def sniff(file, head): return head.startswith(b'ROWS')\n"
        "def read(file): raise BadRows('whole')\n"
        "def read_each(file):\n"
        "    yield Stay(np.ones((1, 40)), 'p1', str(file), NAME)\n"
        "    yield BadRows('of p2', code='not_a_number')\n"
    )
    install("rows", text)
    (tmp_path / "a.rows").write_bytes(b"ROWS")
    first, second = items_of(tmp_path / "a.rows")
    assert not isinstance(first, Refusal)
    assert isinstance(second, Refusal)
    assert second.code == "not_a_number"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", "cannot be loaded: No module named 'no_such_module'"),
        ("NAME = 'x'", "has no TASK, sniff, read"),
        ("NAME, TASK, sniff, read = 'x', 'dentistry', None, None", "the task 'dentistry'"),
    ],
)
def test_a_broken_reader_is_named_where_it_was_wanted(
    tmp_path: Path, install: Install, text: str, message: str
) -> None:
    install("broken_reader", text)
    (tmp_path / "a.bin").write_bytes(b"something else")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read(tmp_path / "a.bin")
    assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.zip", b"PK\x03\x04" + bytes(100), "archive"),
        ("a.scp", b"PK\x03\x04" + bytes(100), "archive"),
        ("a.scp", bytes(range(256)), "called SCP"),
        ("a.dcm", b"<!DOCTYPE html><html><body>Session expired", "HTML page"),
        ("a.hl7", b"\n<html>", "HTML page"),
        ("a.xml", b"<?xml version='1.0'?><Invoice/>", "not HL7 aECG, GE MUSE"),
        ("a.pdf", b"%PDF-1.7", "PDF"),
        ("a.dcm", b"\xff\xd8\xff\xe0", "picture"),
        ("a.ecg", b"-----BEGIN PGP MESSAGE-----", "encrypted"),
        ("a.dcm", bytes(reversed(range(250))) * 4, "damaged or encrypted"),
        ("a.bin", b"who knows", "docs/formats.md"),
    ],
)
def test_formats_that_no_reader_supports_are_named(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        read(tmp_path / name)
    assert caught.value.code == "unsupported_format"
