"""What to say of content that no reader knows."""

from __future__ import annotations

import re

from ibt_deploy.errors import UnsupportedFormat
from ibt_deploy.files import File

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
    (0, b"age-encryption.org", "encrypted by age; decrypt it first"),
)
"""Content by what stands at which place."""

COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
TABLES = re.compile(r"\.(?:csv|psv|tsv)\.(?:gz|zst)", re.IGNORECASE)
TABLE = "a compressed table; 'ibt batch --task sepsis' reads tables of ICU stays, also compressed"

EXPECTED: dict[str, str] = {
    ".scp": "called SCP, but does not begin as EN 1064 has it: a format of the device's own, damaged or "
    "encrypted; export standard SCP-ECG from the device's software",
    ".dcm": "called DICOM, but does not begin as one: damaged or encrypted",
    ".xml": "XML that is neither HL7 aECG, GE MUSE nor Philips Sierra, or no XML",
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
    what = what or EXPECTED.get(file.suffix.lower())
    told = f"this is {what}" if what else "no reader knows this content; docs/formats.md lists what is read"
    return UnsupportedFormat("; ".join([told, *faults]))
