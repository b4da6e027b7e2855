"""Files of other formats with the ECG of :mod:`helpers.wfdb_records`, written by hand."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from ibt_deploy.vocabulary import LEADS
from tests.helpers.wfdb_records import Raw, raw_ecg

EDF_WIDTHS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def muse_lead(name: str, samples: Raw, **replace: str) -> str:
    """One ``LeadData`` of a MUSE file; a keyword replaces the text of its tag."""
    data = samples.astype("<i2").tobytes()
    tags = {
        "LeadByteCountTotal": str(len(data)),
        "LeadTimeOffset": "0",
        "LeadSampleCountTotal": str(len(samples)),
        "LeadAmplitudeUnitsPerBit": "4.88",
        "LeadAmplitudeUnits": "MICROVOLTS",
        "LeadID": name,
        "LeadSampleSize": "2",
        "LeadDataCRC32": str(zlib.crc32(data)),
        "WaveFormData": base64.encodebytes(data).decode(),
    } | replace
    return "<LeadData>" + "".join(f"<{tag}>{text}</{tag}>" for tag, text in tags.items()) + "</LeadData>"


def muse(
    raw: Mapping[str, Raw] | None = None,
    *,
    kinds: Sequence[str] = ("Median", "Rhythm"),
    strip: str = "<SampleBase>500</SampleBase><SampleExponent>0</SampleExponent>",
    before: str = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">',
    **replace: str,
) -> bytes:
    """A MUSE file; a keyword replaces the text of that tag in every lead."""
    if raw is None:
        raw = {lead: row for lead, row in zip(LEADS, raw_ecg(), strict=True) if lead in EIGHT}
    waves = "".join(
        f"<Waveform><WaveformType>{kind}</WaveformType>{strip}"
        + "".join(
            muse_lead(name, row if kind == "Rhythm" else row[:600], **replace) for name, row in raw.items()
        )
        + "</Waveform>"
        for kind in kinds
    )
    patient = (
        "<PatientDemographics><PatientAge>61</PatientAge><AgeUnits>YEARS</AgeUnits><Gender>FEMALE</Gender>"
    )
    return f"{before}<RestingECG>{patient}</PatientDemographics>{waves}</RestingECG>".encode("latin-1")


def cardiosoft(
    raw: Mapping[str, Raw] | None = None,
    *,
    rate: str = '<SampleRate units="Hz">500</SampleRate>',
    resolution: str = '<Resolution units="uVperLsb">4.88</Resolution>',
    leads: int | None = None,
    samples: int | None = None,
    after: str = "",
    age: str = '<Age units="years">61</Age>',
) -> bytes:
    """A CardioSoft file with a median beat before the strip, its samples broken over lines with tabs."""
    if raw is None:
        raw = dict(zip(LEADS, raw_ecg(), strict=True))

    def waves(rows: Mapping[str, Raw], width: int) -> str:
        lines = {
            name: ",\n\t\t".join(
                ",".join(map(str, row[i : i + width].tolist())) for i in range(0, len(row), width)
            )
            for name, row in rows.items()
        }
        return "".join(
            f'<WaveformData lead="{name}">\n\t\t{text}</WaveformData>' for name, text in lines.items()
        )

    medians = waves({name: row[:40] for name, row in raw.items()}, 40)
    leads = len(raw) if leads is None else leads
    samples = len(next(iter(raw.values()))) if samples is None else samples
    counts = (
        f"<NumberOfLeads>{leads}</NumberOfLeads>{rate}"
        f"<ChannelSampleCountTotal>{samples}</ChannelSampleCountTotal>{resolution}"
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<CardiologyXML>'
        "<ObservationType>RestECG</ObservationType>"
        "<ObservationDateTime><Hour>9</Hour><Minute>10</Minute><Second>11</Second><Day>22</Day>"
        "<Month>11</Month><Year>2002</Year></ObservationDateTime>"
        "<ClinicalInfo><DeviceInfo><Desc>CardioSoft</Desc></DeviceInfo></ClinicalInfo>"
        f"<PatientInfo>{age}<BirthDateTime><Day>23</Day><Month>11</Month><Year>1952</Year></BirthDateTime>"
        "<Gender>FEMALE</Gender></PatientInfo><RestingECGMeasurements><MedianSamples>"
        f"{medians}</MedianSamples></RestingECGMeasurements>"
        f"<StripData>{counts}{waves(raw, 15)}</StripData>{after}</CardiologyXML>"
    ).encode("latin-1")


def xli_block(samples: np.ndarray, start: int = 7) -> bytes:
    """One compressed lead: second differences, halves, then LZW in 10-bit codes. The last value is unused."""
    values = samples.astype(np.int64)
    second = np.diff(values, 2)
    start = int(-second[0])
    stored = np.concatenate([values[:2], 64 - second[1:], [64]]).astype(np.int16).view(np.uint16)
    packed = (stored >> 8).astype(np.uint8).tobytes() + (stored & 255).astype(np.uint8).tobytes()
    codes = lzw_codes(packed)
    bits = "".join(f"{code:010b}" for code in [*codes, 1023])
    bits += "0" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return len(data).to_bytes(4, "little") + b"\1\0" + start.to_bytes(2, "little", signed=True) + data


def lzw_codes(data: bytes) -> list[int]:
    """LZW codes of ``data``; the table grows up to code 1022."""
    table = {bytes((value,)): value for value in range(256)}
    codes, word = [], b""
    for value in data:
        longer = word + bytes((value,))
        if longer in table:
            word = longer
            continue
        codes.append(table[word])
        if len(table) < 1023:
            table[longer] = len(table)
        word = bytes((value,))
    return [*codes, table[word]]


def to_residuals(raw: Raw) -> list[np.ndarray]:
    """Rows of the 12 leads as XLI stores them."""
    rows = [row.astype(np.int64) for row in raw]
    one, two, three, avr, avl, avf = rows[:6]

    def half(x: np.ndarray) -> np.ndarray:
        return np.trunc(x / 2).astype(np.int64)

    return [
        one, two, two - one - three, -half(one + two) - avr, half(one - three) - avl, half(two + three) - avf,
        *rows[6:],
    ]  # fmt: skip


def philips(
    raw: Raw | None = None,
    *,
    version: str = "1.04",
    encoding: str = "xli",
    wave: str = "",
    characteristics: str = "",
    duration: int | None = None,
) -> bytes:
    """A Philips file in UTF-16, of which one step is 5 microvolts.

    ``encoding`` is ``xli``, ``int16``, ``residuals`` (int16 of what XLI stores) or ``plain``; ``wave`` and
    ``characteristics`` go before what is there, so that the first statement of a thing is theirs.
    """
    raw = raw_ecg() if raw is None else raw
    if encoding == "xli":
        text = base64.encodebytes(b"".join(xli_block(row) for row in to_residuals(raw))).decode()
    elif encoding == "plain":
        text = " ".join(str(value) for value in raw.reshape(-1))
    else:
        rows = np.array(to_residuals(raw)) if encoding == "residuals" else raw
        text = base64.encodebytes(rows.astype("<i2").tobytes()).decode()
    compressed = encoding == "xli"
    duration = raw.shape[1] * 2 if duration is None else duration
    data = "Plain" if encoding == "plain" else "Base64"
    if version.startswith("1.03"):
        flag = f'compressflag="{compressed}" compressmethod="XLI" nbitspersample="16"'
        about = "<samplingrate>500</samplingrate><signalresolution>5</signalresolution>"
        about += "<acquisitiontype>STD-12</acquisitiontype><bitspersample>16</bitspersample>"
    else:
        flag = 'compression="XLI"' if compressed else ""
        flag += f' numberofleads="12" leadlabels="{" ".join(LEADS)}" samplespersecond="500" resolution="5"'
        flag += ' signaloffset="0" signalsigned="True" bitspersample="16"'
        about = "<samplingrate>500</samplingrate><resolution>5</resolution>"
    return f"""<?xml version="1.0" encoding="utf-16"?>
<restingecgdata xmlns="http://www3.medical.philips.com" status="New" lang="en">
<documentinfo><documenttype>PhilipsECG</documenttype><documentversion>{version}</documentversion></documentinfo>
<dataacquisition date="2010-01-19"><signalcharacteristics>{characteristics}{about}</signalcharacteristics>
</dataacquisition>
<patient><generalpatientdata><age defaultage="50"><dateofbirth>1950-01-20</dateofbirth></age>
<sex>Male</sex>
</generalpatientdata></patient><waveforms>
<parsedwaveforms dataencoding="{data}" durationperchannel="{duration}" {flag} {wave}>{text}</parsedwaveforms>
</waveforms></restingecgdata>""".encode("utf-16")


def edf(
    raw: np.ndarray | None = None,
    *,
    labels: Sequence[str] = tuple(f"ECG {lead}" for lead in LEADS),
    unit: str = "uV",
    records: int | str = 10,
    duration: str = "1",
    reserved: str = "",
    physical: tuple[str, str] = ("-3276.8", "3276.7"),
    digital: tuple[str, str] = ("-32768", "32767"),
    samples: Sequence[int] | None = None,
    patient: str = "X",
) -> bytes:
    """An EDF file of ten records, a tenth of a microvolt a step; ``samples`` are those in a record."""
    raw = raw_ecg()[: len(labels)] if raw is None else raw
    counts = [raw.shape[1] // 10] * len(raw) if samples is None else list(samples)
    n = len(counts)
    fixed = [
        ("0", 8), (patient, 80), ("Startdate 02-MAR-2002 X X X", 80), ("02.03.02", 8), ("10.00.00", 8),
        (str(256 * (n + 1)), 8), (reserved, 44), (str(records), 8), (duration, 8), (str(n), 4),
    ]  # fmt: skip
    columns = [labels, [""] * n, [unit] * n, [physical[0]] * n, [physical[1]] * n, [digital[0]] * n,
               [digital[1]] * n, [""] * n, [str(count) for count in counts], [""] * n]  # fmt: skip
    head = "".join(f"{text:<{width}}"[:width] for text, width in fixed)
    for column, width in zip(columns, EDF_WIDTHS, strict=True):
        head += "".join(f"{text:<{width}}"[:width] for text in column)
    data = b"".join(
        row[i * count : (i + 1) * count].astype("<i2").tobytes()
        for i in range(10)
        for row, count in zip(raw, counts, strict=True)
    )
    return head.encode("latin-1") + data
