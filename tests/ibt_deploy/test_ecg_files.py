"""Real-world files: each is answered, with a warning where one is due, or refused in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ibt_deploy.errors import InputError
from ibt_deploy.preprocess.ecg import EcgPreprocessing, StandardEcg, standardise, windows
from ibt_deploy.readers import read
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS
from tests.helpers.wfdb_records import raw_ecg, write_record

CONSTANTS = EcgPreprocessing(scale=0.25, band=(0.5, 40.0))


def answer(path: Path) -> tuple[StandardEcg, np.ndarray]:
    """What a model would be given of the file at ``path``."""
    (recording,) = read(path)
    assert isinstance(recording, Recording)
    standard = standardise(recording)
    return standard, windows(standard, CONSTANTS)


def with_nan(folder: Path) -> Path:
    raw = raw_ecg()
    raw[:, :1500] = -32768
    return write_record(folder, raw)


def truncated(folder: Path) -> Path:
    path = write_record(folder, storage="16+24")
    data = (folder / "r1.mat").read_bytes()
    (folder / "r1.mat").write_bytes(data[: len(data) // 2])
    return path


def empty(folder: Path) -> Path:
    path = folder / "r1.hea"
    path.touch()
    return path


def empty_signal(folder: Path) -> Path:
    path = write_record(folder)
    (folder / "r1.dat").write_bytes(b"")
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "wrong leads": (lambda f: write_record(f, leads=list("ABCDEFGHIJKL")), "missing_leads"),
    "one limb lead": (lambda f: write_record(f, raw_ecg()[:7], leads=["I", *LEADS[6:]]), "missing_leads"),
    "no chest lead": (lambda f: write_record(f, raw_ecg()[:6], leads=LEADS[:6]), "no_chest_lead"),
    "doubled lead": (lambda f: write_record(f, leads=["I", "i", *LEADS[2:]]), "doubled_lead"),
    "microvolts for millivolts": (lambda f: write_record(f, gain="1/mV"), "implausible_amplitude"),
    "millivolts for microvolts": (lambda f: write_record(f, gain="1000/uV"), "implausible_amplitude"),
    "volts for millivolts": (lambda f: write_record(f, gain="1000/V"), "implausible_amplitude"),
    "missing gain": (lambda f: write_record(f, replace=[(" 1000(0)/mV", "")]), "missing_gain"),
    "zero gain": (lambda f: write_record(f, gain="0/mV"), "missing_gain"),
    "unknown unit": (lambda f: write_record(f, gain="1000/kg"), "unknown_unit"),
    "missing rate": (lambda f: write_record(f, replace=[(" 12 500 5000", " 12")]), "missing_rate"),
    "zero rate": (lambda f: write_record(f, rate="0"), "missing_rate"),
    "fractional rate": (lambda f: write_record(f, rate="500.5"), "non_integer_rate"),
    "too many invalid samples": (with_nan, "invalid_samples"),
    "all leads flat": (lambda f: write_record(f, np.full((12, 5000), 7, np.int16)), "all_leads_flat"),
    "three seconds": (lambda f: write_record(f, raw_ecg(1500)), "too_short"),
    "empty header": (empty, "empty_file"),
    "empty signal file": (empty_signal, "truncated_file"),
    "truncated .mat": (truncated, "truncated_file"),
    "outside its folder": (lambda f: write_record(f, replace=[("r1.dat", "../r1.dat")]), "unsafe_path"),
    "absolute": (lambda f: write_record(f, replace=[("r1.dat", "/etc/hostname")]), "unsafe_path"),
    "2e11 samples": (lambda f: write_record(f, replace=[(" 5000\n", " 200000000000\n")]), "truncated_file"),
    "segments": (lambda f: write_record(f, replace=[("r1 12", "r1/2 12")]), "bad_header"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused_in_one_line_with_a_code(tmp_path: Path, fault: str) -> None:
    make, code = REFUSED[fault]
    with pytest.raises(InputError) as caught:
        answer(make(tmp_path))
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert len(caught.value.message) < 300


def flat_leads(folder: Path) -> Path:
    raw = raw_ecg()
    raw[6:] = 0
    return write_record(folder, raw)


def short_of_samples(folder: Path) -> Path:
    raw = raw_ecg()
    raw[8, 2000:3000] = -32768
    return write_record(folder, raw)


WARNED: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "nothing wrong": (write_record, []),
    "flat leads": (flat_leads, ["flat_leads"]),
    "gap": (short_of_samples, ["gaps"]),
    "two chest leads missing": (
        lambda f: write_record(f, raw_ecg()[:10], leads=LEADS[:10]),
        ["missing_leads"],
    ),
    "100 Hz": (lambda f: write_record(f, raw_ecg(1000, 100), rate="100"), ["low_sampling_rate"]),
    "gain five times too small": (lambda f: write_record(f, gain="5000/mV"), ["unusual_amplitude"]),
}


@pytest.mark.parametrize("case", WARNED)
def test_answered_with_a_warning(tmp_path: Path, case: str) -> None:
    make, codes = WARNED[case]
    standard, given = answer(make(tmp_path))
    assert [warning.code for warning in standard.warnings] == codes
    assert given.shape == (1, 12, 2000)
    assert np.isfinite(given).all()


def test_thirty_minutes(tmp_path: Path) -> None:
    _, given = answer(write_record(tmp_path, np.tile(raw_ecg(2570, 257), 180), rate="257"))
    assert given.shape == (180, 12, 2000)


def test_every_public_recording_is_answered(shared: Path) -> None:
    """Each alone; what is warned of is what is known of these files."""
    warned: Counter[str] = Counter()
    paths = sorted((shared / "data" / "ecg").glob("*/*.hea"))
    assert len(paths) == 2589
    for path in paths:
        standard, given = answer(path)
        assert given.shape[1:] == (12, 2000)
        assert np.isfinite(given).all()
        assert standard.missing_leads == ()
        warned.update(warning.code for warning in standard.warnings)
    assert warned == {"flat_leads": 6, "unusual_amplitude": 18, "limb_leads_contradict": 1}


def test_every_wfdb_file_is_answered_or_refused(shared: Path) -> None:
    answered = set()
    for path in sorted((shared / "data" / "formats" / "wfdb").iterdir()):
        with suppress(InputError):
            answer(path)
            answered.add(path.name)
    assert answered == {"s0010_re.hea", "s0010_re.dat", "s0010_re.xyz"}


def test_example_recording(root: Path) -> None:
    standard, given = answer(root / "examples" / "recording.hea")
    assert given.shape == (1, 12, 2000)
    assert standard.warnings == ()
    assert standard.changes == ("resampled from 1000 to 200 Hz",)


def test_example_recording_is_what_pydicom_carries(root: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.dcmread(str(pydicom.data.get_testdata_file("waveform_ecg.dcm", download=False)))
    (recording,) = read(root / "examples" / "recording.hea")
    assert isinstance(recording, Recording)
    np.testing.assert_allclose(recording.signal * 1000, data.waveform_array(0).T, rtol=0, atol=1e-9)
    assert recording.sampling_rate == data.WaveformSequence[0].SamplingFrequency
    assert recording.leads == LEADS
