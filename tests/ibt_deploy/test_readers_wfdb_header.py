from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy.errors import (
    BadSampling,
    BadUnits,
    InputError,
    MalformedFile,
    MissingLeads,
    UnsupportedFormat,
)
from ibt_deploy.readers.wfdb.header import looks_like_header, parse_header

OFFICIAL = """A0001 2 500 7500 12-May-2020 12:33:59
A0001.mat 16+24 1000/mV 16 0 28 -1716 0 I
A0001.mat 16+24 1000/mV 16 0 7 2029 0 II
#Age: 74
#Sex: Male
#Dx: 59118001
#Rx: Unknown
"""

PHYSIONET = """A0001 2 500 7500
A0001.mat 16x1+24 1000.0(0)/mV 16 0 28 63820 0 I
A0001.mat 16x1+24 1000.0(0)/mV 16 0 7 2029 0 II
# Age: 74
# Sex: Male
# Dx: 59118001
# Rx: Unknown
"""


@pytest.mark.parametrize(
    "text", [OFFICIAL, PHYSIONET, PHYSIONET.replace("\n", "\r\n"), "\ufeff# x\n\n" + OFFICIAL]
)
def test_both_dialects_say_the_same(text: str) -> None:
    header = parse_header(text)
    assert (header.name, header.rate, header.frames) == ("A0001", 500.0, 7500)
    assert (header.stated.dx, header.stated.age, header.stated.sex) == (("59118001",), 74.0, "Male")
    first = header.signals[0]
    assert (first.file, first.format, first.offset, first.per_frame, first.skew) == (
        "A0001.mat",
        16,
        24,
        1,
        0,
    )
    assert (first.gain, first.baseline, first.unit, first.first, first.name) == (1000.0, 0, "mV", 28, "I")
    assert first.checksum is not None
    assert first.checksum % 65536 == 63820


def test_record_name_with_a_dot() -> None:
    assert parse_header(OFFICIAL.replace("A0001 2", "E00001.mat 2")).name == "E00001.mat"


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        ("#Dx: 426783006,", ("426783006",)),
        ("# Dx: 426783006,,164934002", ("426783006", "164934002")),
        ("#dx:164934002,426783006,164934002", ("164934002", "426783006")),
        ("# DX : 426783006 164934002", ("426783006", "164934002")),
        ("#Dx: Unknown", None),
        ("#Dx:", None),
        ("#Hx: 426783006", None),
    ],
)
def test_dx(line: str, codes: tuple[str, ...] | None) -> None:
    assert parse_header(OFFICIAL.replace("#Dx: 59118001", line)).stated.dx == codes


@pytest.mark.parametrize(
    ("line", "age"),
    [
        ("#Age: NaN", None),
        ("#Age: Unknown", None),
        ("# age: 81", 81.0),
        ("#Age: 0.5", 0.5),
        ("#Age: -1", None),
    ],
)
def test_age(line: str, age: float | None) -> None:
    assert parse_header(OFFICIAL.replace("#Age: 74", line)).stated.age == age


@pytest.mark.parametrize(
    ("text", "sex"), [("F", "Female"), ("female", "Female"), ("M", "Male"), ("Unknown", None), ("", None)]
)
def test_sex(text: str, sex: str | None) -> None:
    assert parse_header(OFFICIAL.replace("Male", text)).stated.sex == sex


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("16", (16, 1, 0, 0)),
        ("16+24", (16, 1, 0, 24)),
        ("16x2", (16, 2, 0, 0)),
        ("212:3", (212, 1, 3, 0)),
        ("16x4:17+512", (16, 4, 17, 512)),
    ],
)
def test_storage(field: str, expected: tuple[int, int, int, int]) -> None:
    signal = parse_header(OFFICIAL.replace("16+24", field)).signals[1]
    assert (signal.format, signal.per_frame, signal.skew, signal.offset) == expected


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("200", (200.0, 5, None)),
        ("200/uV", (200.0, 5, "uV")),
        ("4.88(-3)/mV", (4.88, -3, "mV")),
        ("1.052e+04/NU", (10520.0, 5, "NU")),
        ("-200(0)", (-200.0, 0, None)),
    ],
)
def test_gain_baseline_unit(field: str, expected: tuple[float, int, str | None]) -> None:
    text = OFFICIAL.replace("1000/mV 16 0", f"{field} 16 5")
    signal = parse_header(text).signals[0]
    assert (signal.gain, signal.baseline, signal.unit) == expected


def test_lead_name_may_hold_blanks() -> None:
    assert parse_header(OFFICIAL.replace("0 II\n", "0 ECG lead II\n")).signals[1].name == "ECG lead II"


@pytest.mark.parametrize(
    ("old", "new", "error", "code"),
    [
        (" 500 7500 12-May-2020 12:33:59", "", BadSampling, "missing_rate"),
        (" 500 ", " 0 ", BadSampling, "missing_rate"),
        (" 500 ", " -500 ", BadSampling, "missing_rate"),
        (" 500 ", " fast ", BadSampling, "missing_rate"),
        (" 500 ", " 1e9 ", BadSampling, "rate_out_of_range"),
        (" 500 ", " 1e999 ", BadSampling, "rate_out_of_range"),
        (" 7500", " 12:33:59", MalformedFile, "bad_header"),
        ("1000/mV 16 0 28 -1716 0 I\n", "\n", BadUnits, "missing_gain"),
        ("1000/mV 16 0 28", "16 0 28", BadUnits, "missing_gain"),
        ("1000/mV", "0/mV", BadUnits, "missing_gain"),
        ("1000/mV", "/mV", BadUnits, "missing_gain"),
        ("1000/mV", "1e999/mV", BadUnits, "missing_gain"),
        ("1000/mV", "mV", BadUnits, "missing_gain"),
        ("16+24", "+24", MalformedFile, "bad_header"),
        ("16+24", "FLAC", MalformedFile, "bad_header"),
        ("16+24", "16x0+24", MalformedFile, "bad_header"),
        ("28 -1716 0 I\n", "28 -1716 I\n", MalformedFile, "bad_header"),
        ("28 -1716 0 I\n", "28 -1716 0\n", MissingLeads, "missing_lead_name"),
        ("A0001 2 500", "A0001/3 2 500", UnsupportedFormat, "multi_segment"),
        ("A0001 2 500", "A0001 3 500", MalformedFile, "bad_header"),
        ("A0001 2 500", "A0001 0 500", MalformedFile, "bad_header"),
        ("A0001 2 500", "A0001 999999999 500", MalformedFile, "bad_header"),
        ("A0001 2 500", "A0001 two 500", MalformedFile, "bad_header"),
    ],
)
def test_refusals(old: str, new: str, error: type[InputError], code: str) -> None:
    assert old in OFFICIAL
    with pytest.raises(error) as caught:
        parse_header(OFFICIAL.replace(old, new))
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "\x00\x01", "A0001"])
def test_no_header_at_all(text: str) -> None:
    with pytest.raises(MalformedFile):
        parse_header(text)


def test_length_may_be_absent_or_zero() -> None:
    assert parse_header(OFFICIAL.replace(" 7500 12-May-2020 12:33:59", "")).frames is None
    assert parse_header(OFFICIAL.replace(" 7500 ", " 0 ")).frames is None


def test_counter_frequency_is_not_the_rate() -> None:
    assert parse_header(OFFICIAL.replace(" 500 ", " 250/24000(12.5) ")).rate == 250.0


def test_recognised_from_the_first_bytes() -> None:
    assert looks_like_header(OFFICIAL.encode())
    assert not looks_like_header(b"HR|O2Sat|Temp\n80|97|NaN\n")
    assert not looks_like_header(b"1.0 2 3 4\n5.5 6.5 7 8\n")
    assert not looks_like_header(b"PAR1\x00\x00")
    assert not looks_like_header(b"")


@given(st.text(max_size=300))
def test_any_text_parses_or_is_refused(text: str) -> None:
    for whole in (text, OFFICIAL.replace("1000/mV", text, 1), OFFICIAL.replace("500 7500", text, 1)):
        with suppress(InputError):
            parse_header(whole)
