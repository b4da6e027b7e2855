"""What to say of content that no reader knows."""

from __future__ import annotations

import re

from ibt_deploy.errors import UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.leads import canonical_lead
from ibt_deploy.variables import NAMES

ARCHIVE = "an archive; unpack it, or give it to 'ibt batch', which reads into tar and zip archives"
KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", ARCHIVE),
    (257, b"ustar", ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", "an archive; unpack it first"),
    (0, b"Rar!", "an archive; unpack it first"),
    (0, b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
    (0, b"BZh", "compressed by bzip2; unpack it first"),
    (0, b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (0, b"%PDF", "a PDF document; a picture of an ECG is not read, export the signal"),
    (0, b"\x89PNG", "a picture; export the signal"),
    (0, b"\xff\xd8\xff", "a picture; export the signal"),
    (0, b"II*\0", "a picture; export the signal"),
    (0, b"MM\0*", "a picture; export the signal"),
    (0, b"BM", "a picture; export the signal"),
    (0, b"\xd0\xcf\x11\xe0", "an old Office document, perhaps encrypted; export the signal"),
    (0, b"-----BEGIN PGP", "encrypted; decrypt it first"),
    (0, b"-----BEGIN PKCS7", "encrypted; decrypt it first"),
    (0, b"Salted__", "encrypted by OpenSSL; decrypt it first"),
    (0, b"\xff\xfe", "text in UTF-16 without an ECG in it; save a table of stays as UTF-8"),
    (0, b"\xfe\xff", "text in UTF-16 without an ECG in it; save a table of stays as UTF-8"),
    (0, b"age-encryption.org", "encrypted by age; decrypt it first"),
)
"""Content by what stands at which place."""

COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
TABLES = re.compile(r"\.(?:csv|psv|tsv)\.(?:gz|zst)", re.IGNORECASE)
TABLE = "a compressed table; 'ibt batch --task sepsis' reads tables of ICU stays, also compressed"

VARIABLE_NAMES = frozenset(name.lower() for name in NAMES)
WHOLE = 4096
"""A head that is shorter is a whole file."""
DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}\b|\d{1,2}:\d{2}(?::\d{2})?\b")

EXPECTED: dict[str, str] = {
    ".scp": "called SCP, but does not begin as EN 1064 has it: a format of the device's own, damaged or "
    "encrypted; export standard SCP-ECG from the device's software",
    ".dcm": "called DICOM, but does not begin as one: damaged or encrypted",
    ".xml": "no HL7 aECG, GE MUSE or Philips Sierra XML; export one of these",
    ".edf": "called EDF, but does not begin as one: damaged or encrypted",
    ".dat": "a signal file whose WFDB header (.hea) is not beside it or is damaged, or something else",
    ".mat": "a MATLAB file without a WFDB header (.hea) or a layout beside it, or something else",
}


def kind_of(head: bytes) -> str | None:
    """What content that begins with ``head`` is and what to do with it, where its beginning tells."""
    return next((kind for at, magic, kind in KINDS if head[at : at + len(magic)] == magic), None)


def unknown_content(file: File, head: bytes, faults: list[str]) -> UnsupportedFormat:
    """The refusal of a file that begins with ``head``; ``faults`` of other packages' readers are added."""
    what = kind_of(head)
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        what = "an HTML page, perhaps of a login or an error; download the file itself"
    if head.startswith(COMPRESSED) and TABLES.search(file.name[-8:]):
        what = TABLE
    what = what or EXPECTED.get(file.suffix.lower()) or _table(head)
    reason = f"this is {what}" if what else "no reader knows this content; docs/formats.md lists what is read"
    return UnsupportedFormat("; ".join([reason, *faults]))


def _table(head: bytes) -> str | None:
    """What keeps a text table from being read, where its first lines show it."""
    lines = [line for line in head.decode("latin-1").splitlines() if line.strip()]
    if b"\0" in head or not lines or (mark := next((m for m in ",;\t|" if m in lines[0]), None)) is None:
        return None
    names = [name.strip().strip('"') for name in lines[0].split(mark)]
    known = [name for name in names if canonical_lead(name) is not None or name.lower() in VARIABLE_NAMES]
    if not known:
        return None
    if len(lines) == 1 and len(head) < WHOLE:
        return "a table with a header and no rows"
    cells = [cell.strip().strip('"') for cell in lines[min(1, len(lines) - 1)].split(mark)]
    dated = next((name for name, cell in zip(names, cells, strict=False) if DATE.match(cell)), None)
    if dated is None:
        return None
    return (
        f"a table whose column {dated[:40]!r} holds dates or times of day; for an ECG write seconds or leave "
        "the column out, for stays use 'ibt batch' with a mapping that names it"
    )
