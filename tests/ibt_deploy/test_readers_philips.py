"""Philips Sierra XML: Einthoven's law and the cart's own averaged beats are the independent expectations."""

from __future__ import annotations

import base64
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ibt_deploy.errors import (
    BadSampling,
    BadUnits,
    InputError,
    MalformedFile,
    MissingLeads,
    TooLong,
    UnsupportedFormat,
)
from ibt_deploy.files import MemoryFolder
from ibt_deploy.readers import read
from ibt_deploy.readers.xml.philips import MAX_SAMPLES, decoded_leads, from_residuals
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS
from tests.helpers.ecg_files import philips, to_residuals, xli_block
from tests.helpers.wfdb_records import raw_ecg

TAG = "{http://www3.medical.philips.com}"
FILES = ("3191723_ZZDEMOPTONLY_1-04_orig.xml", "ad4d3d80-d165_1-04_orig.xml")


def recording(data: bytes) -> Recording:
    (found,) = read(MemoryFolder({"p.xml": data}) / "p.xml")
    assert isinstance(found, Recording)
    return found


def code_of(data: bytes, error: type[InputError]) -> str:
    with pytest.raises(error) as caught:
        recording(data)
    return caught.value.code


def real(shared: Path, name: str) -> tuple[Recording, ElementTree.Element]:
    path = shared / "data" / "formats" / "philips" / name
    (found,) = read(path)
    assert isinstance(found, Recording)
    return found, ElementTree.parse(path).getroot()


@pytest.mark.parametrize("name", FILES)
def test_limb_leads_of_real_files_obey_einthoven(shared: Path, name: str) -> None:
    """The cart rounded each limb lead on its own: they agree within two steps of 5 microvolts."""
    found, _ = real(shared, name)
    assert found.leads == LEADS
    steps = {lead: row / 0.005 for lead, row in zip(LEADS, found.signal, strict=True)}
    one, two, three = (steps[lead] for lead in ("I", "II", "III"))
    assert np.abs(three - (two - one)).max() <= 2 + 1e-9
    assert np.abs(2 * steps["aVR"] + one + two).max() <= 2 + 1e-9
    assert np.abs(2 * steps["aVL"] - one + three).max() <= 2 + 1e-9
    assert np.abs(2 * steps["aVF"] - two - three).max() <= 2 + 1e-9


@pytest.mark.parametrize("name", FILES)
def test_real_files_look_like_the_averaged_beats_in_them(shared: Path, name: str) -> None:
    """The file also holds an averaged beat of each lead, uncompressed, in steps of 2.5 microvolts."""
    found, root = real(shared, name)
    beats = {beat.get("leadname"): beat.findtext(f"{TAG}waveform") for beat in root.iter(f"{TAG}repbeat")}
    alike, gains = [], []
    for lead, row in zip(found.leads, found.signal, strict=True):
        beat = np.frombuffer(base64.b64decode(beats[lead] or ""), "<i2").astype(float)
        beat = beat[beat != 32767] * 0.0025
        beat -= beat.mean()
        parts = np.lib.stride_tricks.sliding_window_view(row, len(beat))
        parts = parts - parts.mean(axis=1, keepdims=True)
        cosine = parts @ beat / np.sqrt((parts**2).sum(axis=1) * (beat @ beat))
        best = int(cosine.argmax())
        alike.append(cosine[best])
        gains.append(parts[best] @ beat / (beat @ beat))
    assert np.median(alike) > 0.96
    assert min(alike) > 0.85
    assert 0.95 < np.median(gains) < 1.1


@pytest.mark.parametrize("name", FILES)
def test_calibration_pulse_is_left_out(shared: Path, name: str) -> None:
    """The file holds 5500 samples; from 5300 on all leads are 0, then 1 mV for 0.2 s, then 0."""
    found, _ = real(shared, name)
    assert found.signal.shape == (12, 5300)
    assert found.notes == ("left out the last 0.4 s, which are a calibration pulse",)


def test_calibration_pulse_of_a_made_file() -> None:
    raw = raw_ecg(1000)
    raw[:, 900:] = 0
    raw[:, 930:980] = 200
    assert recording(philips(raw)).signal.shape == (12, 900)
    raw[3, 930:980] = -200
    assert recording(philips(raw)).signal.shape == (12, 1000)


def test_age_sex_and_rate_of_real_files(shared: Path) -> None:
    found, _ = real(shared, FILES[1])
    assert (found.age, found.sex, found.sampling_rate, found.dx) == (32.0, "Female", 500.0, None)


@pytest.mark.parametrize("version", ["1.03", "1.04", "1.04.01"])
@pytest.mark.parametrize("encoding", ["xli", "int16", "plain", "residuals"])
def test_every_version_and_encoding(version: str, encoding: str) -> None:
    found = recording(philips(version=version, encoding=encoding))
    np.testing.assert_allclose(found.signal, raw_ecg() * 0.005, rtol=1e-12)
    assert (found.leads, found.sampling_rate, found.format) == (LEADS, 500.0, f"Philips Sierra XML {version}")
    assert (found.age, found.sex) == (59.0, "Male")
    assert found.notes == (() if encoding != "residuals" else found.notes)


@given(arrays(np.int16, st.integers(3, 300), elements=st.integers(-8000, 8000)))
def test_compression_is_undone(samples: np.ndarray) -> None:
    (decoded,) = decoded_leads(xli_block(samples), 1)
    np.testing.assert_array_equal(decoded, samples)


@given(arrays(np.int16, (12, 9), elements=st.integers(-9000, 9000)))
def test_residuals_are_undone_whatever_the_leads(raw: np.ndarray) -> None:
    for row, expected in zip(from_residuals(to_residuals(raw), LEADS), raw, strict=True):
        np.testing.assert_array_equal(row, expected)


def test_residuals_need_their_leads() -> None:
    with pytest.raises(MissingLeads):
        from_residuals([np.zeros(3, np.int64)] * 2, ["II", "III"])
    chest = [np.ones(3, np.int64)]
    np.testing.assert_array_equal(from_residuals(chest, ["V1"]), chest)


def test_lzw_that_unpacks_to_too_much() -> None:
    block = xli_block(np.zeros(MAX_SAMPLES + 10, np.int16))
    with pytest.raises(TooLong):
        decoded_leads(block, 1)


def test_more_samples_than_claimed_are_noted_and_fewer_refused() -> None:
    assert "but contains 5000" in recording(philips(duration=9000)).notes[0]
    assert code_of(philips(duration=11000), MalformedFile) == "truncated_file"


@pytest.mark.parametrize(
    ("old", "new", "error", "code"),
    [
        ("<documentversion>1.04", "<documentversion>1.02", UnsupportedFormat, "unsupported_format"),
        ('compression="XLI"', 'compression="ZIP"', UnsupportedFormat, "unsupported_format"),
        ('dataencoding="Base64"', 'dataencoding="Hex"', UnsupportedFormat, "unsupported_format"),
        ('bitspersample="16"', 'bitspersample="12"', UnsupportedFormat, "unsupported_format"),
        ('signaloffset="0"', 'signaloffset="32768"', UnsupportedFormat, "unsupported_format"),
        ('signalsigned="True"', 'signalsigned="False"', UnsupportedFormat, "unsupported_format"),
        ('samplespersecond="500"', 'samplespersecond="250"', MalformedFile, "malformed_file"),
        ("parsedwaveforms", "unparsedwaveforms", MissingLeads, "no_ecg_lead"),
        ("aVR aVL", "aVL aVL", MissingLeads, "doubled_lead"),
        ("I II III", "X Y III", MissingLeads, "missing_leads"),
        ('numberofleads="12" leadlabels', 'numberofleads="12" labels', MissingLeads, "missing_lead_name"),
    ],
)
def test_refusals(old: str, new: str, error: type[InputError], code: str) -> None:
    text = philips().decode("utf-16")
    assert old in text
    assert code_of(text.replace(old, new).encode("utf-16"), error) == code


def test_without_rate_or_resolution() -> None:
    text = philips(version="1.03").decode("utf-16")
    assert code_of(text.replace("samplingrate", "rate").encode("utf-16"), BadSampling) == "missing_rate"
    assert code_of(text.replace("signalresolution", "x").encode("utf-16"), BadUnits) == "missing_gain"


@pytest.mark.parametrize("cut", [1, 3, 7, 20, 2000])
def test_damaged_blocks(cut: int) -> None:
    block = xli_block(raw_ecg()[0])
    with pytest.raises(MalformedFile):
        decoded_leads(block[:-cut] if cut > 2 else block, 1 if cut > 2 else 2)
    with pytest.raises(InputError):
        decoded_leads(block[:8] + bytes(range(200, 250)) * 8, 1)
