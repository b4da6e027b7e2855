"""Make ``recording.hea`` and ``recording.dat`` from the 12-lead recording that pydicom carries for its tests.

Run ``python examples/make_recording.py`` from the root of the repository; it needs pydicom (extra
``formats``). Nothing is filtered, resampled or rounded: the int16 samples of the DICOM file are stored as
they are, and its 1.25 microvolts per unit become a gain of 800 units per millivolt.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.waveforms.numpy_handler import generate_multiplex

HERE = Path(__file__).resolve().parent
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def main() -> None:
    """Write both files beside this script."""
    data = pydicom.dcmread(str(get_testdata_file("waveform_ecg.dcm", download=False)))
    group = data.WaveformSequence[0]
    sensitivities = set()
    for lead, channel in zip(LEADS, group.ChannelDefinitionSequence, strict=True):
        named = channel.ChannelSourceSequence[0].CodeMeaning.split()[1]
        unit = channel.ChannelSensitivityUnitsSequence[0].CodeValue
        if named != lead or unit != "uV" or float(channel.ChannelBaseline) != 0:
            raise SystemExit(f"unexpected channel: {named} in {unit}")
        sensitivities.add(
            float(channel.ChannelSensitivity) * float(channel.ChannelSensitivityCorrectionFactor)
        )
    (microvolts,) = sensitivities
    raw = next(generate_multiplex(data, as_raw=True))
    if raw.dtype != np.int16:
        raise SystemExit(f"unexpected samples: {raw.dtype}")

    header = [f"recording {len(LEADS)} {float(group.SamplingFrequency):g} {len(raw)}"]
    for lead, samples in zip(LEADS, raw.T, strict=True):
        checksum = int(samples.sum(dtype=np.int64)) % 65536
        header.append(f"recording.dat 16 {1000 / microvolts:g}(0)/mV 16 0 {samples[0]} {checksum} 0 {lead}")
    header.append(f"# Age: {int(data.PatientAge[:-1])}")
    header.append(f"# Sex: {'Female' if data.PatientSex == 'F' else 'Male'}")
    raw.astype("<i2").tofile(HERE / "recording.dat")
    (HERE / "recording.hea").write_text("\n".join(header) + "\n", encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
