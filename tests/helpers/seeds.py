"""Small valid files of every supported format: a fuzzer should start from nearly valid inputs."""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ibt_deploy.files import MemoryFile, MemoryFolder
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS
from tests.helpers import ecg_files
from tests.helpers import scp_records as scp
from tests.helpers.wfdb_records import raw_ecg, write_record

Files = dict[str, bytes]
"""Content by name; the first is what the reader is given."""

SAMPLES = 600
LARGEST_REAL = 600_000
LAYOUT = f'sampling_rate = 500\nunit = "uV"\nleads = "{" ".join(LEADS)}"\n'.encode()
SEPARATOR = b"\n\xff--\xfe\n"
REAL: Mapping[str, tuple[str, ...]] = {
    "xml.aecg": ("aecg/*.xml", "trio/*.xml"),
    "dicom": ("trio/*.dcm", "muse_xml/*.dcm"),
    "text": ("csv/*.csv", "txt/*.txt"),
    "xml.muse": ("muse_xml/*.xml",),
    "xml.philips": ("philips/*.xml",),
    "scp": ("trio/*.scp", "scp_vendor/*"),
    "wfdb": ("wfdb/*.hea",),
}
SHORT_SIGNAL = 8_000
"""Bytes of a real signal file that are kept, and characters of numbers of a real text."""


def packed(files: Files) -> bytes:
    """Several files as one string of bytes, as the fuzzer mutates them."""
    return SEPARATOR.join(name.encode() + b"\n" + content for name, content in files.items())


def unpacked(data: bytes) -> MemoryFile:
    """The first file of what :func:`packed` gave, or of what a fuzzer made of it, among the others."""
    files: Files = {}
    first = ""
    for part in data.split(SEPARATOR)[:16]:
        name, _, content = part.partition(b"\n")
        text = str(PurePosixPath(name[:60].decode("latin-1").replace("\0", "").strip("/.") or "f"))
        first = first or text
        files.setdefault(text, content)
    return MemoryFolder(files) / first


def seeds(reader: str, shared: Path | None = None) -> list[Files]:
    """Files for a reader: small ones made here, and the real ones where ``shared`` holds them."""
    made = list((MAKERS | MORE)[reader]())
    if shared is not None:
        for pattern in REAL.get(reader, ()):
            paths = sorted((shared / "data" / "formats").glob(pattern))
            made += [_real(path) for path in paths if path.stat().st_size <= LARGEST_REAL]
    return made


def _real(path: Path) -> Files:
    """A real file, without most of its numbers where it would be large, and what its header names."""
    content = path.read_bytes()
    if path.suffix == ".hea":
        content = re.sub(rb"\A(\S+ \d+ \S+) \d+", rb"\1", content)
        named = {line.split()[0] for line in content.decode("latin-1").splitlines()[1:] if line.split()}
        beside = {name: path.with_name(name) for name in sorted(named) if "/" not in name}
        return {path.name: content} | {
            name: file.read_bytes()[:SHORT_SIGNAL] for name, file in beside.items() if file.is_file()
        }
    if path.suffix == ".xml":
        content = re.sub(rb"(<digits>(?:\s*[^\s<]+\s){0,400})[^<]*", rb"\1", content)
    elif path.suffix in (".csv", ".txt"):
        content = content[:SHORT_SIGNAL].rpartition(b"\n")[0]
        return {path.name: content, f"{path.stem}.toml": LAYOUT}
    return {path.name: content}


def _raw() -> np.ndarray:
    return raw_ecg(SAMPLES)


def _recording() -> Recording:
    return Recording(_raw() / 1000, 500.0, LEADS, "r1", "made", "made", age=61.0, sex="Female")


def _wfdb() -> list[Files]:
    found = []
    for storage in ("16", "16+24", "16:2", "16x2"):
        with tempfile.TemporaryDirectory() as folder:
            header = write_record(
                Path(folder), _raw(), storage=storage, comments=["# Dx: 426783006", "# Age: 61"]
            )
            files = sorted(Path(folder).iterdir(), key=lambda path: path != header)
            found.append({path.name: path.read_bytes() for path in files})
    for storage in ("8", "24", "32", "61", "80", "160", "212", "310", "311"):
        text = found[0]["r1.hea"].replace(b".dat 16 ", f".dat {storage} ".encode())
        found.append({"r1.hea": text.replace(b" 500 600", b" 500 100"), "r1.dat": bytes(range(256)) * 20})
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, _raw()[:8].T.astype(np.int16), 8000, format="FLAC", subtype="PCM_16")
    header = b"\n".join(found[0]["r1.hea"].replace(b"r1 12", b"r1 8").split(b"\n")[:9])
    found.append({"r1.hea": header.replace(b".dat 16 ", b".dat 516 "), "r1.dat": stream.getvalue()})
    return found


def _stays() -> list[Files]:
    names = [
        "HR",
        "O2Sat",
        "Temp",
        "SBP",
        "MAP",
        "Resp",
        "Age",
        "Gender",
        "HospAdmTime",
        "ICULOS",
        "SepsisLabel",
    ]
    rows = [[80 + i, 97, "NaN" if i % 3 else 36.8, 120, 80, 16, 61, 1, -3, i + 1, 0] for i in range(12)]
    psv = "\n".join("|".join(map(str, row)) for row in [names, *rows])
    many = "\n".join(
        f'"{patient}",' + ",".join("" if cell == "NaN" else str(cell) for cell in row)
        for patient in ("p1", "p2")
        for row in rows
    )
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    columns = {name: [float(row[i]) for row in rows] for i, name in enumerate(names)}
    pq.write_table(pa.table({"patient_id": ["p1"] * 12, **columns}), stream)
    return [
        {"p1.psv": psv.encode()},
        {"many.csv": f"patient_id,{','.join(names)}\n{many}\n".encode()},
        {"rows.parquet": stream.getvalue()},
    ]


def _written(suffix: str) -> list[Files]:
    from ibt_deploy.writers import write

    with tempfile.TemporaryDirectory() as folder:
        paths = write(_recording(), Path(folder, f"r1{suffix}"))
        return [{path.name: path.read_bytes() for path in paths}]


def _scp() -> list[Files]:
    samples = scp.ecg(samples=SAMPLES)
    leads = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    about = {1: scp.patient(t8=b"\1"), 3: scp.lead_section(leads, SAMPLES)}
    plain = {6: scp.signal_section([scp.plain(row) for row in samples])}
    coded = {
        2: scp.DEFAULT_TABLES,
        6: scp.signal_section([scp.huffman(scp.differences(row, 2)) for row in samples], order=2),
    }
    switching = [[("0", 1, 1, 0), ("10", 18, 1, 0), ("11", 2, 0, 2)], [("0", 9, 1, 0)]]
    beat = {
        2: scp.table_section(switching),
        3: scp.lead_section(leads, SAMPLES, flags=1),
        4: struct.pack("<HHH", 400, 100, 1) + struct.pack("<HIII", 0, 100, 150, 199) + bytes(8),
        5: scp.signal_section([bytes(100)] * len(leads)),
    }
    bimodal = {6: scp.signal_section([bytes(200)] * len(leads), order=2, bimodal=1, interval=8000)}
    made = [about | plain, about | coded, about | coded | beat, about | beat | bimodal]
    return [{"a.scp": scp.record(sections)} for sections in made]


def _dicom() -> list[Files]:
    from pydicom import uid

    from tests.helpers import dicom_records as dicom

    made = _written(".dcm")
    raw = dicom.ecg(samples=1200)
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian):
        group = dicom.group(raw, [dicom.channel(lead) for lead in LEADS], padding=-400)
        made.append({"a.dcm": dicom.dicom(group, syntax=syntax, PatientAge="061Y", PatientSex="F")})
    small = dicom.ecg("i1", 1200)
    groups = [
        dicom.group(small[:6], [dicom.channel(lead) for lead in LEADS[:6]]),
        dicom.group(small[6:], [dicom.channel(lead, meaning="", unit="mV") for lead in LEADS[6:]]),
        dicom.group(small[:2, :600], [dicom.channel(lead) for lead in LEADS[:2]], label="MEDIAN BEAT"),
    ]
    born = {"PatientBirthDate": "19510502", "AcquisitionDateTime": "20200101120000"}
    made.append({"a.dcm": dicom.dicom(*groups, sop_class=uid.GeneralECGWaveformStorage, **born)})
    return made


def _aecg() -> list[Files]:
    sequences = "".join(
        f'<component><sequence><code code="MDC_ECG_LEAD_{lead}"/><value xsi:type="SLIST_PQ">'
        '<origin value="0" unit="uV"/><scale value="1" unit="uV"/>'
        f"<digits>{' '.join(map(str, row))}</digits></value></sequence></component>"
        for lead, row in zip(LEADS, _raw().tolist(), strict=True)
    )
    text = (
        '<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        '<component><series><code code="RHYTHM"/><component><sequenceSet><component><sequence>'
        '<code code="TIME_RELATIVE"/><value xsi:type="GLIST_PQ"><head value="0" unit="s"/>'
        '<increment value="0.002" unit="s"/></value>'
        f"</sequence></component>{sequences}</sequenceSet></component></series></component></AnnotatedECG>"
    )
    return [{"a.xml": text.encode()}]


def _cardiosoft() -> list[Files]:
    return [{"c.xml": ecg_files.cardiosoft({"I": np.arange(60), "II": -np.arange(60)})}]


def _muse() -> list[Files]:
    raw = dict(zip(ecg_files.EIGHT, _raw(), strict=False))
    return [{"m.xml": ecg_files.muse(raw)}]


def _philips() -> list[Files]:
    kinds = (("1.04", "xli"), ("1.03", "xli"), ("1.04", "int16"), ("1.04", "plain"))
    return [{"p.xml": ecg_files.philips(_raw(), version=v, encoding=e)} for v, e in kinds]


def _edf() -> list[Files]:
    plus = ecg_files.edf(_raw(), reserved="EDF+C", patient="X F 02-MAY-1951 X")
    bdf = b"\xffBIOSEMI" + ecg_files.edf(_raw(), records=-1)[8:]
    return [{"e.edf": ecg_files.edf(_raw())}, {"e.edf": plus}, {"e.bdf": bdf}]


def _arrays() -> list[Files]:
    import scipy.io

    found: list[Files] = []

    def saved(name: str, save: Callable[[io.BytesIO], Any]) -> None:
        stream = io.BytesIO()
        save(stream)
        found.append({name: stream.getvalue(), "a.toml": LAYOUT})

    stated = {"val": _raw(), "sampling_rate": 500.0, "unit": "uV", "leads": " ".join(LEADS)}
    saved("a.npy", lambda stream: np.save(stream, _raw()))
    saved("a.npz", lambda stream: np.savez_compressed(stream, **stated))
    for options in ({"format": "4"}, {"format": "5"}, {"do_compression": True}):
        saved("a.mat", lambda stream, options=options: scipy.io.savemat(stream, stated, **options))  # type: ignore[misc]
    return found


def _ecg_text() -> list[Files]:
    rows = _raw().T[:100].tolist()
    lines = [",".join(map(str, row)) for row in rows]
    named = ",".join(f"{lead} (uV)" for lead in LEADS)
    timed = "\n".join(f"{i * 2},{line}" for i, line in enumerate(lines))
    across = "\n".join(
        f"{lead};" + ";".join(map(str, row)) for lead, row in zip(LEADS, _raw().tolist(), strict=True)
    )
    return [
        {"t.csv": "\n".join([named, *lines]).encode(), "t.toml": b"sampling_rate = 500"},
        {
            "t.csv": "\n".join(lines).encode(),
            "layout.json": b'{"sampling_rate": 500, "unit": "mV", "leads": "I II"}',
        },
        {"t.csv": f"time_ms,{named}\n{timed}".encode()},
        {"t.txt": f"Sampling rate: 500 Hz\nunit: uV\n{across}".encode()},
        {"t.txt": "\n".join(line.replace(",", " ") for line in lines).encode(), "t.toml": LAYOUT},
    ]


def _archives() -> list[Files]:
    wfdb = _wfdb()[0]
    found = []
    for ending in ("zip", "tar", "tar.gz"):
        stream = io.BytesIO()
        if ending == "zip":
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in wfdb.items():
                    archive.writestr(f"d/{name}", content)
        else:
            with tarfile.open(fileobj=stream, mode="w:gz" if ending == "tar.gz" else "w") as tar:
                for name, content in wfdb.items():
                    info = tarfile.TarInfo(f"d/{name}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        found.append({f"a.{ending}": stream.getvalue()})
    return found


def _tables() -> list[Files]:
    psv, many, parquet = _stays()
    (text,) = many.values()
    german = (
        b"Fall;Zeit;Aufnahme;Puls (1/min);Temperatur [\xc2\xb0C];Krea\n4711;01.03.2021 10:30;;84;36,9;88,4\n"
    )
    import pyarrow as pa

    return [
        *(psv, many, parquet, {"g.csv": german}),
        {"m.csv.gz": gzip.compress(text, mtime=0)},
        {"m.csv.zst": pa.compress(text, codec="zstd", asbytes=True)},
    ]


MAPPING = """
[table]
patient = "Fall"
hospital = "Haus"
delimiter = ";"
decimal = ","
encoding = "latin-1"
missing = [-1, "n.b."]
[time]
kind = "timestamp"
column = "Zeit"
format = ["%d.%m.%Y %H:%M", "iso"]
zone = "Europe/Berlin"
admission = "first"
before_admission = "drop"
[columns.HR]
column = "Puls"
unit = "1/min"
[columns.Temp]
column = "T"
unit = "degF"
confirmed = true
[columns.BUN]
column = "Hst"
unit = "mg/dL"
substance = "urea"
[columns.Creatinine]
column = "Krea"
factor = 0.0113
offset = 0.0
[columns.Gender]
column = "sex"
male = ["M", 1]
female = ["W"]
unknown = ["X"]
[unit_type]
column = "station"
medical = ["MICU"]
surgical = ["SICU"]
"""


def _mappings() -> list[Files]:
    vital = "".join(
        f'[columns.{name}]\ncolumn = "{name}"\nunit = "{unit}"\n'
        for name, unit in (("O2Sat", "%"), ("SBP", "kPa"), ("MAP", "mmHg"), ("Resp", "/min"), ("HR", "bpm"))
    )
    hours = '[table]\n[time]\nkind = "hours"\ncolumn = "h"\nunit = "min"\n'
    stamped = MAPPING.replace("[columns.Temp]", vital.partition("[columns.HR]")[0] + "[columns.Temp]")
    return [{"mapping.toml": text.encode()} for text in (stamped, hours + vital)]


MORE: dict[str, Callable[[], list[Files]]] = {
    "archives": _archives,
    "tables": _tables,
    "mapping": _mappings,
}
"""What else reads files of others, and what makes them."""

MAKERS: dict[str, Callable[[], list[Files]]] = {
    "wfdb": _wfdb,
    "recording_parquet": lambda: _written(".parquet"),
    "stays": _stays,
    "dicom": _dicom,
    "scp": _scp,
    "xml.aecg": _aecg,
    "xml.muse": _muse,
    "xml.cardiosoft": _cardiosoft,
    "xml.philips": _philips,
    "edf": _edf,
    "arrays": _arrays,
    "text": _ecg_text,
}
"""Readers and what makes their files."""
