"""Storage formats and skew against a decoder written here, sample by sample, from the words of signal(5)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.errors import InputError, MalformedFile, MissingLeads
from ibt_deploy.readers import read as read_any
from ibt_deploy.readers.wfdb import read
from ibt_deploy.readers.wfdb.storage import bytes_of, decoded, samples_in
from ibt_deploy.vocabulary import LEADS
from tests.helpers.wfdb_records import raw_ecg, write_record

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # pandas 3.1 about how wfdb uses it
    import wfdb


def one_by_one(data: bytes, storage: int, samples: int) -> list[int]:
    """Samples of a signal file, from its bits; differences for format 8."""

    def bits(first: int, count: int) -> int:
        return int.from_bytes(data, "little") >> first & ((1 << count) - 1)

    def signed(value: int, count: int) -> int:
        return value - (1 << count) if value >> (count - 1) else value

    found = []
    for n in range(samples):
        if storage in (8, 16, 24, 32):
            value = signed(bits(n * storage, storage), storage)
        elif storage == 61:
            value = signed(int.from_bytes(data[2 * n : 2 * n + 2], "big"), 16)
        elif storage == 80:
            value = data[n] - 128
        elif storage == 160:
            value = bits(16 * n, 16) - 32768
        elif storage == 212:
            low, high = bits(24 * (n // 2), 12), 24 * (n // 2)
            value = low if n % 2 == 0 else bits(high + 16, 8) | bits(high + 12, 4) << 8
            value = signed(value, 12)
        elif storage == 310:
            word = 32 * (n // 3)
            third = bits(word + 11, 5) | bits(word + 27, 5) << 5
            value = signed((bits(word + 1, 10), bits(word + 17, 10), third)[n % 3], 10)
        else:
            value = signed(bits(32 * (n // 3) + 10 * (n % 3), 10), 10)
        found.append(value)
    return found


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([8, 16, 24, 32, 61, 80, 160, 212, 310, 311]), st.binary(max_size=40))
def test_random_bytes_equal_the_decoder_by_bits(storage: int, data: bytes) -> None:
    samples = samples_in(storage, len(data))
    assert bytes_of(storage, samples) <= len(data) < bytes_of(storage, samples + 1)
    assert decoded(data, storage, samples).tolist() == one_by_one(data + bytes(4), storage, samples)


@pytest.mark.parametrize("word", [0x00000000, 0x3FFFFFFF, 0x2AAAAAAA, 0x1FF803FE, 0x17FFFC00])
def test_third_sample_of_format_311_has_all_ten_bits(word: int) -> None:
    third = word >> 20 & 0x3FF
    expected = third - 1024 if third & 0x200 else third
    assert decoded(word.to_bytes(4, "little"), 311, 3)[2] == expected


def packed_311(raw: np.ndarray) -> bytes:
    """Samples, frame by frame, three in each 32-bit word."""
    flat = [int(value) & 0x3FF for value in raw.T.reshape(-1)]
    flat += [0] * (-len(flat) % 3)
    words = [flat[i] | flat[i + 1] << 10 | flat[i + 2] << 20 for i in range(0, len(flat), 3)]
    return b"".join(word.to_bytes(4, "little") for word in words)


def test_a_lead_of_one_and_a_half_millivolts_in_format_311(tmp_path: Path) -> None:
    """The wfdb package 4.3.1 reads its third samples as up to 10.23 mV."""
    raw = np.clip(raw_ecg() // 8, -511, 511).astype(np.int16)
    path = write_record(tmp_path, raw, storage="311", gain="100(0)/mV")
    (tmp_path / "r1.dat").write_bytes(packed_311(raw))
    (recording,) = read(path)
    np.testing.assert_array_equal(recording.signal, raw / 100)
    assert recording.warnings == ()


@pytest.mark.parametrize("storage", ["16", "311"])
@pytest.mark.parametrize("extra", [0, 40])
def test_signals_of_different_skews(tmp_path: Path, storage: str, extra: int) -> None:
    """A signal that is n frames late in the file is moved forward; what lies beyond the file is NaN."""
    skews = [0, 3, 17, 0, 5, 1, 2, 3, 40, 7, 8, 9]
    true = np.clip(raw_ecg(1040) // 8, -511, 511).astype(np.int16)
    late = np.zeros((12, 1000 + extra), dtype=np.int16)
    for row, lead, skew in zip(late, true, skews, strict=True):
        row[skew:] = lead[: 1000 + extra - skew]
    path = write_record(tmp_path, late[:, :1000], storage=storage, gain="100(0)/mV")
    data = packed_311(late) if storage == "311" else late.T.astype("<i2").tobytes()
    (tmp_path / "r1.dat").write_bytes(data)
    lines = path.read_text().splitlines()
    for number, skew in enumerate(skews, start=1):
        lines[number] = lines[number].replace(f" {storage} ", f" {storage}:{skew} ", 1)
    path.write_text("\n".join(lines))
    (recording,) = read(path)
    expected = true[:, :1000] / 100
    for row, skew in zip(expected, skews, strict=True):
        row[1000 + extra - skew if skew > extra else 1000 :] = np.nan
    np.testing.assert_array_equal(recording.signal, expected)
    assert recording.warnings == ()


@pytest.mark.parametrize("storage", ["16", "24", "61", "212", "311"])
def test_several_samples_in_a_frame(tmp_path: Path, storage: str) -> None:
    """Of signals that are sampled at different rates, in one file, against the decoder by bits."""
    rng = np.random.default_rng(3)
    per_frame = (4, 1, 2)
    data = rng.integers(0, 256, 420, dtype=np.uint8).tobytes()
    lines = ["r1 3 100 20"]
    flat = np.array(one_by_one(data, int(storage), 140)).reshape(20, 7)
    parts = (flat[:, :4].reshape(-1), flat[:, 4:5].reshape(-1), flat[:, 5:].reshape(-1))
    units = ("mV", "mmHg", "NU")
    for name, count, unit, part in zip(("I", "ABP", "PLETH"), per_frame, units, parts, strict=True):
        checksum = int(part.sum()) % 65536
        lines.append(f"r1.dat {storage}x{count} 10(0)/{unit} 16 0 {part[0]} {checksum} 0 {name}")
    (tmp_path / "r1.hea").write_text("\n".join(lines) + "\n")
    (tmp_path / "r1.dat").write_bytes(data)
    (recording,) = read(tmp_path / "r1.hea")
    assert recording.sampling_rate == 400.0
    invalid = {"16": -(2**15), "24": -(2**23), "61": -(2**15), "212": -2048, "311": -512}[storage]
    np.testing.assert_array_equal(recording.signal[0], np.where(parts[0] == invalid, np.nan, parts[0] / 10))


def test_first_differences_start_from_the_initial_value(tmp_path: Path) -> None:
    """-128 is a sample like any other here: the format has no invalid value."""
    raw = np.cumsum(np.random.default_rng(0).integers(-60, 61, (2, 800)), axis=1)
    raw[0, 5] = -128
    raw[0, 6:] = raw[0, 6:] - raw[0, 6] - 128
    raw[0, :5] = -128
    path = write_record(tmp_path, raw.astype(np.int16), storage="8", leads=LEADS[:2], gain="100(0)/mV")
    differences = np.diff(raw, axis=1, prepend=raw[:, :1]).astype(np.int8)
    (tmp_path / "r1.dat").write_bytes(differences.T.tobytes())
    (recording,) = read(path)
    np.testing.assert_array_equal(recording.signal, raw / 100)
    np.testing.assert_array_equal(recording.signal, wfdb.rdrecord(str(path.with_suffix(""))).p_signal.T)
    assert recording.warnings == ()


@pytest.mark.parametrize("storage", ["16", "212", "24", "61", "160"])
def test_the_wrong_storage_format_is_damage(tmp_path: Path, storage: str) -> None:
    frames = 1000
    path = write_record(tmp_path, storage=storage, replace=[(" 500 5000", f" 500 {frames}")])
    if storage == "16":
        other = raw_ecg(seed=7)
        (tmp_path / "r1.dat").write_bytes(other.T.astype("<i2").tobytes())
    with pytest.raises(MalformedFile, match="none of the 12 checksums") as caught:
        read_any(path)
    assert caught.value.code == "checksum_differs"


def test_wrong_checksums_beside_right_initial_values_are_a_warning(tmp_path: Path) -> None:
    raw = raw_ecg()
    path = write_record(tmp_path, raw)
    raw[:, 100] += 1
    (tmp_path / "r1.dat").write_bytes(raw.T.astype("<i2").tobytes())
    assert [warning.code for warning in read(path)[0].warnings] == ["checksum_differs"]


def segment(
    folder: Path, stem: str, raw: np.ndarray, leads: tuple[str, ...] = LEADS, unit: str = "mV"
) -> None:
    gain = {"mV": "1000(0)/mV", "uV": "1(0)/uV", "mmHg": "10(0)/mmHg"}[unit]
    write_record(folder, raw, stem=stem, leads=leads, gain=gain)


def test_segments_of_a_fixed_layout(tmp_path: Path) -> None:
    raw = raw_ecg()
    segment(tmp_path, "m_1", raw[:, :2000])
    segment(tmp_path, "m_2", raw[:, 2500:], unit="uV")
    path = tmp_path / "m.hea"
    path.write_text("m/3 12 500 5000\nm_1 2000\n~ 500\nm_2 2500\n# Age: 61\n")
    (recording,) = read_any(path)
    expected = raw / 1000
    expected[:, 2000:2500] = np.nan
    np.testing.assert_allclose(recording.signal, expected, rtol=1e-12)
    assert recording.leads == LEADS
    assert (recording.record_id, recording.sampling_rate, recording.age) == ("m", 500.0, 61.0)
    assert recording.format == "WFDB (16, 2 segments)"
    assert recording.notes == (
        "joined 2 segments; 1.0 s between them hold no signal",
        "converted from uV to mV",
    )


def test_segments_of_a_variable_layout(tmp_path: Path) -> None:
    """Leads in another order, one that a segment lacks, a segment without any voltage; wfdb agrees."""
    raw = raw_ecg()
    order = (2, 0, 1, *range(3, 11))
    segment(tmp_path, "m_1", raw[:, :2000])
    segment(tmp_path, "m_2", raw[list(order), 2000:4000], tuple(LEADS[i] for i in order))
    segment(tmp_path, "m_3", raw[:1, 4000:], ("ABP",), unit="mmHg")
    layout = ["m_layout 13 500 0"]
    layout += [f"~ 0 {'10/mmHg' if n == 'ABP' else '1000/mV'} 16 0 0 0 0 {n}" for n in (*LEADS, "ABP")]
    (tmp_path / "m_layout.hea").write_text("\n".join(layout) + "\n")
    path = tmp_path / "m.hea"
    path.write_text("m/4 13 500 5000\nm_layout 0\nm_1 2000\nm_2 2000\nm_3 1000\n")
    (recording,) = read_any(path)
    expected = raw / 1000
    expected[:, 4000:] = np.nan
    expected[11, 2000:] = np.nan
    np.testing.assert_array_equal(recording.signal, expected)
    np.testing.assert_array_equal(recording.signal, wfdb.rdrecord(str(tmp_path / "m")).p_signal.T[:12])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("m/2 12 500 5000\nm_1 2000\n~ 500\n", "bad_header"),
        ("m/2 12 500\nm_1 2000\nm_9 500\n", "missing_signal_file"),
        ("m/2 12 500\nm_1 1999\n~ 500\n", "bad_header"),
        ("m/2 12 250\nm_1 2000\n~ 500\n", "bad_header"),
        ("m/2 12 500\nm_1 2000\n", "bad_header"),
        ("m/1 12 500\n~ 2000\n", "bad_header"),
        ("m/1 12 500\n..\\m_1 2000\n", "unsafe_path"),
        ("m/2 12 500\nm_1 2000\nm 500\n", "multi_segment"),
        ("m/2 12 500\nm_1 2000\n~ 99999999999\n", "recording_too_long"),
        ("m/2 12 500\nm_1 2000\nm_2 3000\n", "bad_header"),
    ],
)
def test_segments_that_contradict_their_record(tmp_path: Path, text: str, code: str) -> None:
    raw = raw_ecg()
    segment(tmp_path, "m_1", raw[:, :2000])
    segment(tmp_path, "m_2", raw[:11, 2000:], LEADS[:11])
    path = tmp_path / "m.hea"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_any(path)
    assert getattr(caught.value, "code", None) == code


def test_no_voltage_in_any_segment(tmp_path: Path) -> None:
    segment(tmp_path, "m_1", raw_ecg()[:1, :2000], ("ABP",), unit="mmHg")
    (tmp_path / "m.hea").write_text("m/1 1 500\nm_1 2000\n")
    with pytest.raises(MissingLeads):
        read_any(tmp_path / "m.hea")
