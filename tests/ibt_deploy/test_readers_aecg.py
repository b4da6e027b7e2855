from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.errors import InputError
from ibt_deploy.files import MemoryFolder
from ibt_deploy.readers import read
from ibt_deploy.readers.xml import MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS, root_name
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS

Raw = npt.NDArray[np.int64]
TIME = '<head value="20240102030405.000"/><increment value="0.002" unit="s"/>'


def raw(leads: int = 12, samples: int = 3000) -> Raw:
    return np.random.default_rng(0).integers(-400, 400, (leads, samples))


def sequence(code: str, value: str, kind: str = "SLIST_PQ") -> str:
    return (
        f'<component><sequence><code code="{code}" codeSystem="2.16.840.1.113883.6.24"/>'
        f'<value xsi:type="{kind}">{value}</value></sequence></component>'
    )


def lead(name: str, digits: Sequence[int], scale: str = "2.5", unit: str = "uV", origin: str = "0") -> str:
    return sequence(
        f"MDC_ECG_LEAD_{name}",
        f'<origin value="{origin}" unit="{unit}"/><scale value="{scale}" unit="{unit}"/>'
        f"<digits>{' '.join(map(str, digits))}</digits>",
    )


def rhythm(leads: str, increment: str = TIME, code: str = "RHYTHM", kind: str = "GLIST_TS") -> str:
    sequences = sequence("TIME_ABSOLUTE", increment, kind) + leads
    return (
        f'<component><series><code code="{code}"/><component><sequenceSet>{sequences}'
        "</sequenceSet></component></series></component>"
    )


def aecg(*series: str, before: str = "", person: str = "", root: str = "AnnotatedECG") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{before}'
        f'<{root} xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f'<effectiveTime><low value="20240102030405"/></effectiveTime>{person}{"".join(series)}</{root}>'
    ).encode()


def whole(samples: Raw, **options: str) -> str:
    return rhythm("".join(lead(n.upper(), row, **options) for n, row in zip(LEADS, samples, strict=True)))


def recordings(data: bytes) -> list[Recording]:
    found = read(MemoryFolder({"a.xml": data}) / "a.xml")
    assert all(isinstance(item, Recording) for item in found)
    return [item for item in found if isinstance(item, Recording)]


def refused(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(MemoryFolder({"a.xml": data}) / "a.xml")
    assert "\n" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize(
    ("scale", "unit", "millivolts"),
    [("2.5", "uV", 0.0025), ("5", "uV", 0.005), ("0.00488", "mV", 0.00488), ("1e3", "nV", 0.001)],
)
def test_digits_times_scale_plus_origin(scale: str, unit: str, millivolts: float) -> None:
    samples = raw()
    (found,) = recordings(aecg(whole(samples, scale=scale, unit=unit)))
    np.testing.assert_allclose(found.signal, samples * millivolts, rtol=0, atol=1e-12)
    assert (found.leads, found.sampling_rate, found.format, found.record_id) == (
        LEADS,
        500.0,
        "HL7 aECG",
        "a",
    )
    (moved,) = recordings(aecg(whole(samples, scale=scale, unit=unit, origin="-3")))
    np.testing.assert_allclose(moved.signal, (samples - 3 / float(scale)) * millivolts, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("increment", "rate"),
    [
        ('<head value="0" unit="s"/><increment value="0.001" unit="s"/>', 1000),
        ('<increment value="4" unit="ms"/>', 250),
        ('<increment value="2000" unit="us"/>', 500),
        ('<increment value="0.00333333" unit="s"/>', 300),
        ('<increment value="0.0009765625" unit="s"/>', 1024),
    ],
)
def test_increments_of_time(increment: str, rate: int) -> None:
    (found,) = recordings(aecg(rhythm(lead("I", [1, 2]), increment, kind="GLIST_PQ")))
    assert found.sampling_rate == rate


def test_the_rhythm_is_read_and_not_the_representative_beat() -> None:
    samples, beat = raw(), raw(samples=500)
    derived = f"<derivation><derivedSeries>{whole(beat)}</derivedSeries></derivation>"
    series = whole(samples).replace("</series>", f"{derived}</series>")
    beside = rhythm(lead("I", [1]), code="REPRESENTATIVE_BEAT")
    (found,) = recordings(aecg(beside, series))
    assert found.signal.shape == samples.shape


def test_each_rhythm_is_a_recording() -> None:
    first, second = recordings(aecg(whole(raw()), whole(raw() + 1)))
    assert (first.record_id, second.record_id) == ("a-1", "a-2")
    np.testing.assert_allclose(second.signal - first.signal, 0.0025)


def test_patient() -> None:
    person = (
        '<x><subjectDemographicPerson><administrativeGenderCode code="F"/><birthTime value="19640103"/>'
        "</subjectDemographicPerson></x>"
    )
    (found,) = recordings(aecg(whole(raw()), person=person))
    assert (found.age, found.sex) == (59.0, "Female")
    reported = (
        '<y><annotation><code code="21612-7"/><value xsi:type="PQ" value="6" unit="mo"/></annotation></y>'
    )
    (found,) = recordings(aecg(whole(raw()), person=person + reported))
    assert found.age == 0.5


def test_what_is_no_lead_is_left_out() -> None:
    (found,) = recordings(aecg(rhythm(lead("I", [1, 2]) + sequence("MDC_PULS_RATE", "<digits>60</digits>"))))
    assert found.leads == ("I",)
    assert found.notes == ("left out channels that are not leads: MDC_PULS_RATE",)


def test_a_negative_scale_is_warned_of() -> None:
    (found,) = recordings(aecg(rhythm(lead("I", [1, 2], scale="-5"))))
    assert [warning.code for warning in found.warnings] == ["negative_gain"]


ONE = lead("I", [1, 2])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (aecg(), "no_rhythm"),
        (aecg(rhythm("")), "no_ecg_lead"),
        (aecg(rhythm(ONE, "<head/>")), "missing_rate"),
        (aecg(rhythm(ONE, '<increment value="0.002"/>')), "missing_rate"),
        (aecg(rhythm(ONE, '<increment value="0" unit="s"/>')), "missing_rate"),
        (aecg(rhythm(ONE, '<increment value="99" unit="s"/>')), "rate_out_of_range"),
        (
            aecg(rhythm(ONE + sequence("TIME_RELATIVE", '<increment value="0.004" unit="s"/>'))),
            "missing_rate",
        ),
        (aecg(rhythm(lead("I", [1], scale="x"))), "missing_gain"),
        (aecg(rhythm(lead("I", [1], scale="0"))), "missing_gain"),
        (aecg(rhythm(lead("I", [1], unit="mmHg"))), "unknown_unit"),
        (aecg(rhythm(lead("I", [1], unit=""))), "unknown_unit"),
        (aecg(rhythm(sequence("MDC_ECG_LEAD_I", "<digits>1 2</digits>"))), "missing_gain"),
        (aecg(rhythm(lead("I", [1, 2]) + lead("II", [1]))), "uneven_leads"),
        (aecg(rhythm(lead("I", []))), "empty_file"),
        (aecg(rhythm(ONE.replace("1 2", "1 two"))), "not_numbers"),
        (aecg(rhythm(ONE.replace("1 2", "1-2 3"))), "not_numbers"),
        (aecg(rhythm(ONE.replace("1 2", "1e999 2"))), "not_numbers"),
        (aecg(whole(raw()))[:-300], "bad_xml"),
        (aecg(whole(raw())) + b"<more/>", "bad_xml"),
        (b'<?xml version="1.0" encoding="klingon"?><AnnotatedECG/>', "bad_xml"),
        (aecg(before='<!DOCTYPE AnnotatedECG [<!ENTITY a "ha">]>'), "unsafe_xml"),
        (aecg(before='<!DOCTYPE AnnotatedECG [<!ATTLIST component a CDATA "ha">]>'), "unsafe_xml"),
        (aecg(before='<!DOCTYPE AnnotatedECG [<!ENTITY a SYSTEM "file:///etc/passwd">]>'), "unsafe_xml"),
        (aecg("<a>" * (MAX_DEPTH + 1) + "</a>" * (MAX_DEPTH + 1)), "bad_xml"),
        (aecg("<a/>" * (MAX_ELEMENTS + 1)), "bad_xml"),
        (aecg("<a " + " ".join(f'b{n}=""' for n in range(200_000)) + "/>"), "bad_xml"),
        (aecg(" " * MAX_BYTES), "recording_too_long"),
    ],
)
def test_refusals(data: bytes, code: str) -> None:
    begin = time.process_time()
    assert refused(data) == code
    assert time.process_time() - begin < 6


def test_billion_laughs() -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    assert refused(aecg("&l11;", before=f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]>')) != "bad_xml"


def test_a_document_type_without_content_is_passed_over() -> None:
    (found,) = recordings(aecg(whole(raw()), before='<!DOCTYPE AnnotatedECG SYSTEM "aecg.dtd">'))
    assert found.signal.shape == (12, 3000)


def test_a_long_rhythm_is_not_taken_for_a_long_tag() -> None:
    (found,) = recordings(aecg(whole(raw(samples=60_000))))
    assert found.signal.shape == (12, 60_000)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings(encoding: str) -> None:
    text = aecg(whole(raw())).decode().replace("UTF-8", "UTF-16" if encoding == "utf-16" else "UTF-8")
    (found,) = recordings(text.encode(encoding))
    assert found.signal.shape == (12, 3000)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"<AnnotatedECG", "AnnotatedECG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- <a> -->\n<h:AnnotatedECG xmlns", "AnnotatedECG"),
        (b"<!DOCTYPE RestingECG SYSTEM 'x.dtd'><RestingECG>", "RestingECG"),
        (b"<!-- never closed " + b"<" * 4000, None),
        (b"I,II,III\n1,2,3", None),
        (b"", None),
    ],
)
def test_root_name(head: bytes, name: str | None) -> None:
    assert root_name(head) == name


@given(
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), min_size=1, max_size=5),
    st.integers(50, 9000),
)
@settings(max_examples=100)
def test_stray_bytes_give_nothing_but_refusals(changes: list[tuple[int, int]], stop: int) -> None:
    data = bytearray(aecg(whole(raw(samples=100))))
    for place, byte in changes:
        data[place] = byte
    with suppress(InputError):
        recordings(bytes(data[:stop]))


def test_real_files(shared: object) -> None:
    from pathlib import Path

    folder = Path(str(shared)) / "data" / "formats" / "aecg"
    (found,) = read(folder / "subject1_0.xml")
    assert isinstance(found, Recording)
    assert (found.signal.shape, found.age, found.sex) == ((12, 5000), 49.0, "Male")
    for path in folder.glob("minimum*.xml"):
        (found,) = read(path)
        assert isinstance(found, Recording)
        assert found.leads == ("II",)
        np.testing.assert_allclose(found.signal[0, :5], np.array([-2, -2, -2, -2, -3]) * 0.0025)
    with pytest.raises(InputError, match="no rhythm series"):
        read(folder / "empty.xml")
