"""MATLAB and NumPy arrays; scipy and numpy write them."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
import scipy.io

from ibt_deploy.errors import BadUnits, InputError, MalformedFile, MissingLeads, TooLong, UnsupportedFormat
from ibt_deploy.files import MemoryFolder
from ibt_deploy.readers import read
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS
from tests.helpers.wfdb_records import raw_ecg

RAW = raw_ecg(600)
STATED: dict[str, Any] = {"sampling_rate": 500.0, "unit": "uV", "leads": " ".join(LEADS)}
LAYOUT = f'sampling_rate = 500\nunit = "uV"\nleads = "{" ".join(LEADS)}"\n'


def npy(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def mat(**options: Any) -> bytes:
    arrays = options.pop("arrays", {"val": RAW})
    stream = io.BytesIO()
    scipy.io.savemat(stream, arrays, **options)
    return stream.getvalue()


def recording(data: bytes, name: str, layout: str = LAYOUT) -> Recording:
    files = {name: data} | ({name.rpartition(".")[0] + ".toml": layout.encode()} if layout else {})
    (found,) = read(MemoryFolder(files) / name)
    assert isinstance(found, Recording)
    return found


def code_of(error: type[InputError], data: bytes, name: str, layout: str = LAYOUT) -> str:
    with pytest.raises(error) as caught:
        recording(data, name, layout)
    return caught.value.code


def expect_raw(found: Recording, what: str) -> None:
    np.testing.assert_allclose(found.signal, RAW / 1000, rtol=1e-6)
    assert (found.leads, found.sampling_rate, found.format) == (LEADS, 500.0, what)


@pytest.mark.parametrize("kind", ["<i2", ">i2", "<i4", "<f4", ">f8", "<i8"])
@pytest.mark.parametrize("fortran", [False, True])
def test_npy_of_any_kind_and_order(kind: str, fortran: bool) -> None:
    array = RAW.astype(kind)
    expect_raw(recording(npy(np.asfortranarray(array) if fortran else array), "a.npy"), "NumPy")
    expect_raw(recording(npy(array.T.copy()), "a.npy"), "NumPy")


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_that_states_its_own_layout(compressed: bool) -> None:
    stated = STATED | {"leads": np.array(LEADS)}
    expect_raw(recording(npz(compressed, ecg=RAW, **stated), "a.npz", ""), "NumPy (npz)")
    expect_raw(recording(npz(compressed, ecg=RAW[None]), "a.npz"), "NumPy (npz)")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"format": "4"}, "MATLAB 4"),
        ({"format": "5"}, "MATLAB 5"),
        ({"format": "5", "do_compression": True}, "MATLAB 5"),
    ],
)
@pytest.mark.parametrize("kind", ["i2", "i4", "f4", "f8"])
def test_mat(options: dict[str, Any], what: str, kind: str) -> None:
    arrays = {"val": RAW.astype(kind)}
    expect_raw(recording(mat(arrays=arrays, **options), "a.mat"), what)
    expect_raw(recording(mat(arrays=arrays | STATED, **options), "a.mat", ""), what)


def test_mat_with_cells_structures_and_more_arrays() -> None:
    others = {"cell": np.array([1, "a"], dtype=object), "about": {"hospital": "x"}, "z": RAW + 1j, "n": 3}
    expect_raw(recording(mat(arrays={"val": RAW} | others), "a.mat"), "MATLAB 5")
    several = mat(arrays={"val": RAW, "other": RAW})
    assert code_of(MalformedFile, several, "a.mat") == "bad_layout"
    expect_raw(recording(several, "a.mat", LAYOUT + 'variable = "val"'), "MATLAB 5")
    assert code_of(MalformedFile, several, "a.mat", LAYOUT + 'variable = "x"') == "bad_layout"


def test_what_is_not_stated_is_refused() -> None:
    assert code_of(MissingLeads, npy(RAW), "a.npy", "") == "missing_lead_name"
    assert code_of(BadUnits, npy(RAW), "a.npy", LAYOUT.replace('unit = "uV"', "")) == "missing_unit"
    assert code_of(MalformedFile, npy(RAW[:, :12]), "a.npy") == "bad_layout"
    assert code_of(MalformedFile, npy(RAW[:8]), "a.npy") == "bad_layout"


def test_objects_are_never_unpickled() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            raise AssertionError("pickled")

    assert (
        code_of(UnsupportedFormat, npy(np.array([[1, None]], dtype=object)), "a.npy") == "unsupported_format"
    )
    assert code_of(UnsupportedFormat, npz(x=np.array([None])), "a.npz") == "unsupported_format"
    assert code_of(UnsupportedFormat, npy(RAW * 1j), "a.npy") == "unsupported_format"
    assert code_of(UnsupportedFormat, npy(RAW[0]), "a.npy") == "unsupported_format"


def test_lies_about_size() -> None:
    data = npy(RAW)
    huge = data.replace(b"(12, 600)", b"(12,9999999999999)"[:9].ljust(9))
    assert code_of(MalformedFile, huge, "a.npy") in ("truncated_file", "bad_header")
    assert code_of(MalformedFile, data.replace(b"(12, 600)", b"(12, 999)"), "a.npy") == "truncated_file"
    assert code_of(MalformedFile, data.replace(b"fortran", b"fortram"), "a.npy") == "bad_header"
    assert code_of(MalformedFile, data[:50], "a.npy") == "truncated_file"
    four, five = mat(format="4"), mat(format="5")
    assert code_of(MalformedFile, four[:-2], "a.mat") == "truncated_file"
    assert code_of(MalformedFile, five[:-20], "a.mat") == "truncated_file"
    packed = mat(do_compression=True)
    assert code_of(MalformedFile, packed[:200] + b"\0" * 9 + packed[209:], "a.mat") == "malformed_file"


@pytest.mark.parametrize("key", ["unit", "leads"])
def test_characters_that_are_none(key: str) -> None:
    """numpy makes strings of any four bytes; Python then fails wherever one of them is used."""
    for bad in (b"\xff\xff\xff\x7f", b"\0\xd8\0\0"):
        text = np.frombuffer(bad * 2, "<U2")
        data = npz(**{"val": RAW, **STATED, key: text})
        assert code_of(MalformedFile, data, "a.npz", "") == "malformed_file"


def test_a_text_of_no_rows() -> None:
    empty = struct.pack("<5i", 1, 0, 7, 0, 5) + b"unit\0"
    with pytest.raises(InputError):
        recording(mat(format="4") + empty, "a.mat", "")
    found = recording(mat(format="4") + empty.replace(b"unit", b"note"), "a.mat")
    expect_raw(found, "MATLAB 4")


def test_small_files_that_unpack_to_much() -> None:
    zeros = np.zeros((12, 3_000_000))
    assert code_of(TooLong, npz(True, x=zeros), "a.npz") == "recording_too_long"
    assert code_of(TooLong, mat(arrays={"x": zeros}, do_compression=True), "a.mat") == "recording_too_long"


def test_matlab_7_3_says_how_to_save_again() -> None:
    data = b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(600)
    with pytest.raises(UnsupportedFormat) as caught:
        recording(data, "a.mat")
    assert "-v7" in caught.value.message


def test_encrypted_or_damaged_archive() -> None:
    data = npz(x=RAW)
    assert code_of(MalformedFile, data[:-30], "a.npz") == "malformed_file"
    flagged = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.start_dir
    flagged[start + 8] |= 1
    assert code_of(UnsupportedFormat, bytes(flagged), "a.npz") == "unsupported_format"
