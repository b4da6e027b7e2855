from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from helpers import scp_records as scp
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.errors import InputError
from ibt_deploy.files import MemoryFolder
from ibt_deploy.preprocess.ecg import standardise
from ibt_deploy.readers import read
from ibt_deploy.records import Recording

EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
Sections = dict[int, bytes]


def recording(data: bytes, name: str = "a.scp") -> Recording:
    (found,) = read(MemoryFolder({name: data}) / name)
    assert isinstance(found, Recording)
    return found


def refused(data: bytes, name: str = "a.scp") -> str:
    with pytest.raises(InputError) as caught:
        read(MemoryFolder({name: data}) / name)
    return caught.value.code


def plain_sections(samples: scp.Samples, **signal: int) -> Sections:
    return {
        1: scp.patient(t8=b"\1", t5=struct.pack("<HBB", 1953, 5, 8), t25=struct.pack("<HBB", 2002, 11, 22)),
        3: scp.lead_section(EIGHT[: len(samples)], samples.shape[1]),
        6: scp.signal_section([scp.plain(row) for row in samples], **signal),
    }


def test_plain_samples_in_millivolts() -> None:
    samples = scp.ecg()
    found = recording(scp.record(plain_sections(samples, nanovolts=4880, interval=1000)))
    np.testing.assert_allclose(found.signal, samples * 0.00488, rtol=0, atol=1e-12)
    assert (found.sampling_rate, found.leads, found.format) == (1000.0, EIGHT, "SCP-ECG")
    assert (found.age, found.sex, found.record_id) == (49.0, "Male", "a")
    assert found.notes == found.warnings == ()


def test_eight_leads_become_twelve() -> None:
    standard = standardise(recording(scp.record(plain_sections(scp.ecg()))))
    assert standard.missing_leads == ()
    assert "derived III, aVR, aVL, aVF from I and II" in standard.changes


@pytest.mark.parametrize("order", [0, 1, 2])
def test_default_huffman_and_differences(order: int) -> None:
    samples = scp.ecg(seed=order)
    sections = plain_sections(samples) | {
        2: scp.DEFAULT_TABLES,
        6: scp.signal_section([scp.huffman(scp.differences(row, order)) for row in samples], order=order),
    }
    np.testing.assert_allclose(recording(scp.record(sections)).signal, samples * 0.0025, rtol=0, atol=1e-12)


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=60), st.sampled_from([0, 1, 2]))
@settings(max_examples=50)
def test_whatever_is_encoded_is_decoded(values: list[int], order: int) -> None:
    samples = np.array(values)
    wrapped = scp.differences(samples, order).astype(np.int16).astype(np.int64)  # as writers wrap around
    sections = {
        2: scp.DEFAULT_TABLES,
        3: scp.lead_section(("II",), len(samples)),
        6: scp.signal_section([scp.huffman(wrapped)], order=order, nanovolts=1000),
    }
    np.testing.assert_allclose(recording(scp.record(sections)).signal[0] * 1000, samples, rtol=0, atol=1e-9)


def test_tables_of_the_file_and_switches_between_them() -> None:
    """Table 1 knows -1, 0, 1; '111' switches to table 2, of numbers of 12 bits; there '1' switches back."""
    one = [("0", 1, 1, 0), ("100", 3, 1, 1), ("101", 3, 1, -1), ("111", 3, 0, 2)]
    two = [("0", 13, 1, 0), ("1", 1, 0, 1)]
    small = {0: "0", 1: "100", -1: "101"}
    samples = scp.ecg(leads=2, samples=3000)

    def encoded(row: scp.Samples) -> bytes:
        bits = ""
        for value in scp.differences(row, 2).tolist():
            bits += small.get(value) or f"1110{value & 0xFFF:012b}1"
        return scp.packed(bits)

    sections = plain_sections(samples) | {
        2: scp.table_section([one, two]),
        6: scp.signal_section([encoded(row) for row in samples], order=2),
    }
    np.testing.assert_allclose(recording(scp.record(sections)).signal, samples * 0.0025, rtol=0, atol=1e-12)


def test_reference_beat_is_added_back() -> None:
    """A beat of 200 samples with its fiducial point at 100 was subtracted at 300, 700..."""
    samples = scp.ecg(leads=2, samples=2000)
    beat = np.rint(80 * np.hanning(200)[None] * np.array([[1], [-2]])).astype(np.int64)
    fiducials = [300, 700, 1100, 1500]
    residual = samples.copy()
    entries = b""
    for fiducial in fiducials:
        first, last = fiducial - 60, fiducial + 79
        residual[:, first - 1 : last] -= beat[:, 40 - 1 : 40 - 1 + 140]
        entries += struct.pack("<HIII", 0, first, fiducial, last)
    entries += struct.pack("<HIII", 1, 10, 20, 30)  # a beat of another type: nothing was subtracted
    protected = b"".join(struct.pack("<II", f - 20, f + 20) for f in [*fiducials, 25])
    sections = {
        2: scp.DEFAULT_TABLES,
        3: scp.lead_section(EIGHT[:2], 2000, flags=1),
        4: struct.pack("<HHH", 400, 100, 5) + entries + protected,
        5: scp.signal_section([scp.huffman(scp.differences(row, 2)) for row in beat], order=2),
        6: scp.signal_section([scp.huffman(scp.differences(row, 1)) for row in residual], order=1),
    }
    found = recording(scp.record(sections))
    np.testing.assert_allclose(found.signal, samples * 0.0025, rtol=0, atol=1e-12)
    assert "reference beat added back" in found.notes
    for missing in (4, 5):
        assert (
            refused(scp.record({n: body for n, body in sections.items() if n != missing}))
            == "missing_section"
        )


def test_bimodal_compression() -> None:
    """Blocks of 4 outside the protected zones are stored as their means; a line must come back whole."""
    time_ = np.arange(1, 2001)
    samples = np.rint(np.array([0.4 * time_, 500 - 0.4 * time_])).astype(np.int64) * 5
    zones = [(401, 440), (801, 850), (1201, 1230)]
    line = {z: np.arange(z[0] - 1, z[1]) for z in zones}
    encoded = []
    for row in samples:
        stored: list[int] = []
        place = 0
        for zone in [*zones, (2001, 2000)]:
            while place < zone[0] - 1:
                block = row[place : min(place + 4, zone[0] - 1)]
                stored.append(round(float(block.mean())))
                place += len(block)
            stored += row[line[zone]].tolist() if zone in line else []
            place = zone[1]
        encoded.append(scp.huffman(scp.differences(np.array(stored), 2)))
    entries = b"".join(struct.pack("<HIII", 1, 1, 1, 1) for _ in zones)
    sections = {
        2: scp.DEFAULT_TABLES,
        3: scp.lead_section(EIGHT[:2], 2000),
        4: struct.pack("<HHH", 100, 10, 3) + entries + b"".join(struct.pack("<II", *z) for z in zones),
        5: scp.signal_section([scp.huffman(np.zeros(50, int))] * 2, interval=2000),
        6: scp.signal_section(encoded, interval=8000, order=2, bimodal=1),
    }
    found = recording(scp.record(sections))
    assert found.sampling_rate == 500.0
    raw = found.signal / 0.0025
    for zone in zones:
        np.testing.assert_allclose(raw[:, line[zone]], samples[:, line[zone]], atol=1e-6)
    middle = np.ones(2000, bool)
    for first, last in [
        (1, 4),
        (397, 404),
        (437, 444),
        (797, 804),
        (847, 854),
        (1197, 1204),
        (1227, 1234),
        (1993, 2000),
    ]:
        middle[first - 1 : last] = False
    np.testing.assert_allclose(raw[:, middle], samples[:, middle], atol=5)
    np.testing.assert_allclose(raw, samples, atol=8)
    assert any("decimated by 4" in note for note in found.notes)


def test_leads_that_begin_later_are_not_moved() -> None:
    samples = scp.ecg(leads=2, samples=1250)
    sections = {
        3: scp.lead_section(("I", "V1"), 1250, starts=(1, 1251)),
        6: scp.signal_section([scp.plain(row) for row in samples]),
    }
    found = recording(scp.record(sections)).signal
    assert found.shape == (2, 2500)
    assert np.isnan(found[0, 1250:]).all()
    assert np.isnan(found[1, :1250]).all()
    np.testing.assert_allclose(found[1, 1250:], samples[1] * 0.0025)


@pytest.mark.parametrize(
    ("interval", "rate"), [(2000, 500), (1000, 1000), (3333, 300), (977, 1024), (4000, 250)]
)
def test_intervals_in_whole_microseconds(interval: int, rate: int) -> None:
    assert recording(scp.record(plain_sections(scp.ecg(2), interval=interval))).sampling_rate == rate


def test_age_as_stated_comes_before_the_date_of_birth() -> None:
    sections = plain_sections(scp.ecg(2))
    sections[1] = scp.patient(t4=struct.pack("<HB", 18, 2), t8=b"\2", t5=struct.pack("<HBB", 1900, 1, 1))
    found = recording(scp.record(sections))
    assert (found.age, found.sex) == (1.5, "Female")


@pytest.mark.parametrize(
    "body", [b"", b"\x08", b"\x08\xff\xff\x01", b"\x05\x04\x00\x00\x00\x00\x00", b"\x00" * 50]
)
def test_a_spoilt_patient_section_costs_age_and_sex_only(body: bytes) -> None:
    found = recording(scp.record(plain_sections(scp.ecg(2)) | {1: body}))
    assert found.age is None
    assert found.signal.shape == (2, 5000)


def test_a_writer_that_computes_no_checksum_right_is_believed_with_a_warning() -> None:
    sections = plain_sections(scp.ecg(2))
    spoilt = scp.record(sections, crcs={1: 1, 3: 1, 6: 1, -1: 1})
    spoilt = spoilt[:6] + b"\1\0" + spoilt[8:]
    assert [warning.code for warning in recording(spoilt).warnings] == ["checksum_differs"]
    unstated = scp.record(sections, crcs={1: 0, 3: 0, 6: 0, -1: 0})
    assert recording(unstated).warnings == ()


def test_damage_that_checksums_prove_is_refused() -> None:
    data = bytearray(scp.record(plain_sections(scp.ecg(2))))
    data[-100] ^= 0x10
    assert refused(bytes(data)) == "damaged_file"


def without_magic(data: bytes) -> bytes:
    return data[:16] + bytes(6) + data[22:]


def test_an_older_record_without_its_name_in_section_0() -> None:
    data = scp.record(plain_sections(scp.ecg(2)), magic=bytes(6))
    assert recording(data).signal.shape == (2, 5000)
    assert recording(data, "renamed.bin").signal.shape == (2, 5000)


def section3(body: bytes) -> Callable[[Sections], Sections]:
    return lambda sections: sections | {3: body}


def section6(body: bytes) -> Callable[[Sections], Sections]:
    return lambda sections: sections | {6: body}


PLAIN = [scp.plain(np.arange(5000))] * 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda s: {n: b for n, b in s.items() if n != 3}, "missing_section"),
        (lambda s: {n: b for n, b in s.items() if n != 6}, "missing_section"),
        (section3(b"\0\0"), "bad_header"),
        (section3(b"\xff\0"), "bad_header"),
        (section3(struct.pack("<BBIIB", 1, 0, 9, 3, 1)), "bad_header"),
        (section3(struct.pack("<BBIIB", 1, 0, 1, 0xFFFFFFFF, 1)), "recording_too_long"),
        (
            section3(struct.pack("<BBIIBIIB", 2, 0, 1, 100, 1, 4_000_000_000, 4_000_000_100, 2)),
            "recording_too_long",
        ),
        (section3(scp.lead_section(("I", "II"), 5001)), "truncated_file"),
        (section6(scp.signal_section(PLAIN, interval=0)), "missing_rate"),
        (section6(scp.signal_section(PLAIN, nanovolts=0)), "missing_gain"),
        (section6(scp.signal_section(PLAIN, order=3)), "unsupported_compression"),
        (section6(scp.signal_section(PLAIN, bimodal=1)), "missing_section"),
        (section6(scp.signal_section(PLAIN)[:2000]), "truncated_file"),
        (section6(b"\1\2"), "truncated_file"),
        (lambda s: s | {2: b"\1"}, "truncated_file"),
        (lambda s: s | {2: struct.pack("<HH", 1, 500)}, "truncated_file"),
        (lambda s: s | {2: scp.table_section([[("0", 1, 1, 0), ("01", 2, 1, 1)]])}, "malformed_file"),
        (lambda s: s | {2: scp.table_section([[("10", 2, 1, 0)]])}, "malformed_file"),
        (lambda s: s | {2: scp.table_section([[("0", 1, 0, 7), ("1", 1, 1, 7)]])}, "malformed_file"),
        (lambda s: s | {2: scp.table_section([[("0", 1, 0, 1), ("1", 1, 0, 1)]])}, "truncated_file"),
    ],
)
def test_what_contradicts_itself_is_refused(change: Callable[[Sections], Sections], code: str) -> None:
    sections = change(plain_sections(np.array([np.arange(5000)] * 2)))
    begin = time.perf_counter()
    assert refused(scp.record(sections)) == code
    assert time.perf_counter() - begin < 6


@pytest.mark.parametrize("tables", ["default", "switching"])
def test_the_largest_record_is_decoded_in_two_seconds(tables: str) -> None:
    """Eight leads of 65,534 bytes of one-bit codes: as many samples as the format can hold."""
    codes = [[("0", 1, 1, 0), ("1", 1, 0, 2)], [("0", 1, 1, 0), ("1", 1, 0, 1)]]
    sections = {
        2: scp.DEFAULT_TABLES if tables == "default" else scp.table_section(codes),
        3: scp.lead_section(EIGHT, 8 * 65534),
        6: scp.signal_section([bytes(65534)] * len(EIGHT)),
    }
    data = scp.record(sections, crcs=dict.fromkeys((-1, 2, 3, 6), 0))
    begin = time.process_time()
    assert recording(data).signal.shape == (8, 524272)
    assert time.process_time() - begin < 6


@pytest.mark.parametrize("cut", [0.001, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_record_is_refused(cut: float) -> None:
    data = scp.record(plain_sections(scp.ecg(2)))
    assert refused(data[: max(int(cut * len(data)), 1)]) in ("truncated_file", "unsupported_format")


@cache
def compressed_in_every_way() -> bytes:
    """A record without checksums, so that stray bytes reach what lies behind them."""
    samples = scp.ecg(leads=2, samples=1000)
    sections = plain_sections(samples) | {
        2: scp.table_section([[("0", 1, 1, 0), ("10", 18, 1, 0), ("11", 2, 0, 2)], [("0", 9, 1, 0)]]),
        4: struct.pack("<HHH", 400, 100, 1) + struct.pack("<HIII", 0, 100, 150, 199) + bytes(8),
        5: scp.signal_section([bytes(100)] * 2),
        6: scp.signal_section([scp.huffman(row) for row in samples], order=2, bimodal=1),
    }
    return scp.record(sections, crcs=dict.fromkeys((-1, *range(7)), 0))


@given(
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=20),
    st.integers(100, 8000),
)
@settings(max_examples=100)
def test_stray_bytes_give_nothing_but_refusals(changes: list[tuple[int, int]], stop: int) -> None:
    data = bytearray(compressed_in_every_way())
    for place, byte in changes:
        data[place] = byte
    with suppress(InputError):
        recording(bytes(data[:stop]))


def test_vendor_files_called_scp_are_named_for_what_they_are(shared: object) -> None:
    from pathlib import Path

    folder = Path(str(shared)) / "data" / "formats" / "scp_vendor"
    for path in folder.iterdir():
        with pytest.raises(InputError, match="does not begin as EN 1064 requires") as caught:
            read(path)
        assert caught.value.code == "unsupported_format"
