"""File mutations that get past what would stop them: compression, Base64, checksums."""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from tests.helpers import scp_records

NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
EXTREMES = (
    b"0",
    b"-1",
    b"1e309",
    b"nan",
    b"99999999999999999999",
    b"2147483648",
    b"65536",
    b"",
    b"0.0001",
    b"\xb2",
)
LARGEST_UNPACKED = 1 << 22
BETWEEN = b"\n\n"
TEXT = re.compile(rb"(?:(?<=>)|(?<==\"))([^<>\"&]{1,400})(?=[<\"])")
DECLARED = (b'xmlns="', b'xmlns:xsi="', b'version="', b'encoding="')
UNSAFE = re.compile(rb"[<>\"&\x00-\x08\x0b\x0c\x0e-\x1f\x80-\xff]")

Mutation = tuple[str, float, float, bytes]
"""What is done, where and how far (both as parts), and what is put there."""

KINDS = ("set", "cut", "copy", "insert", "number", "swap")


class Layer(NamedTuple):
    """Content that lies in a file behind a wrapping, and what wraps it again."""

    content: bytes
    closed: Callable[[bytes], bytes]


def mutated(data: bytes, changes: list[Mutation]) -> bytes:
    """``data`` with changes at places given as parts of its length; half of them near its beginning."""
    for kind, at, to, new in changes:
        place = int(len(data) * (at * 2 - 1 if at > 0.5 else at**3))
        length = int(40 * to) if to < 0.9 else int(len(data) * to)
        if kind == "set":
            data = data[:place] + new + data[place + len(new) :]
        elif kind == "cut":
            data = data[:place] + data[place + length :]
        elif kind == "copy":
            data = data[:place] + data[place : place + length] * 2 + data[place + length :]
        elif kind == "insert":
            data = data[:place] + new + data[place:]
        elif kind == "swap":
            data = data[:place] + data[place : place + length][::-1] + data[place + length :]
        elif match := NUMBER.search(data, place):
            data = data[: match.start()] + EXTREMES[int(to * (len(EXTREMES) - 1))] + data[match.end() :]
    return data


def layers(data: bytes) -> list[Layer]:
    """What is to be changed in ``data``: what its wrappings hold; itself where it has none."""
    found: list[Layer] = []
    for opener in (_scp, _utf_16, _xml, _base64, _zip, _matlab, _deflated, _dicom, _gzip, _tar, _parquet):
        with suppress(Exception):  # a wrapping broken by an earlier mutation holds nothing
            found += opener(data)
    return found or [Layer(data, bytes)]


def _scp(data: bytes) -> Iterator[Layer]:
    """An SCP-ECG record, and the body of each of its sections; pointers and checksums are made again."""
    from ibt_deploy.readers.scp import looks_like_record, record_of

    if not looks_like_record(data):
        return
    yield Layer(data, with_scp_checksums)
    bodies = {number: body for number, body in record_of(data).bodies.items() if number}
    unstated = dict.fromkeys((-1, *range(12), *bodies), 0)

    def closed(number: int, new: bytes) -> bytes:
        return with_scp_checksums(scp_records.record(bodies | {number: new}, crcs=unstated))

    for number, body in bodies.items():
        yield Layer(body, partial(closed, number))


def with_scp_checksums(data: bytes) -> bytes:
    """An SCP-ECG record with right checksums of its sections and of itself, as far as its pointers lead."""
    out = bytearray(data)
    if len(out) < 32:
        return data
    (length,) = struct.unpack_from("<I", out, 10)
    spans = [struct.unpack_from("<II", out, at + 2) for at in range(22, min(6 + length, len(out)) - 9, 10)]
    for size, index in [*spans[1:], *spans[:1]]:
        if index and 16 <= size <= len(out) - index + 1:
            section = bytes(out[index + 1 : index - 1 + size])
            struct.pack_into("<H", out, index - 1, binascii.crc_hqx(section, 0xFFFF))
    (claimed,) = struct.unpack_from("<I", out, 2)
    struct.pack_into("<H", out, 0, binascii.crc_hqx(bytes(out[2:claimed]), 0xFFFF))
    return bytes(out)


def _base64(data: bytes) -> Iterator[Layer]:
    """Each long text of an XML document that is Base64."""
    if data.lstrip()[:1] != b"<":
        return
    for match in re.finditer(rb">\s*([A-Za-z0-9+/][A-Za-z0-9+/=\s]{199,})<", data):
        start, stop = match.span(1)
        with suppress(ValueError):
            content = base64.b64decode(match[1])
            yield Layer(
                content,
                lambda new, a=start, b=stop: data[:a] + base64.b64encode(new) + data[b:],  # type: ignore[misc]
            )


def _xml(data: bytes) -> Iterator[Layer]:
    """The short texts and attributes of an XML document, which stays well-formed."""
    if data.lstrip()[:1] != b"<":
        return
    places = [
        match.span(1)
        for match in TEXT.finditer(data)
        if match[1].strip() and not data[max(match.start() - 12, 0) : match.start()].endswith(DECLARED)
    ]

    def closed(new: bytes) -> bytes:
        texts = UNSAFE.sub(b"", new).split(BETWEEN)
        pieces, end = [], 0
        for (start, stop), text in zip(places, texts, strict=False):
            pieces += [data[end:start], text]
            end = stop
        return b"".join([*pieces, data[end:]])

    yield Layer(BETWEEN.join(data[start:stop] for start, stop in places), closed)


def _utf_16(data: bytes) -> Iterator[Layer]:
    """What lies in a document of UTF-16, as Philips writes them."""
    if not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    for inner in layers(data.decode("utf-16").encode("utf-8")):
        yield Layer(
            inner.content,
            lambda new, inner=inner: inner.closed(new).decode("utf-8", "replace").encode("utf-16"),  # type: ignore[misc]
        )


def _zip(data: bytes) -> Iterator[Layer]:
    """Each member of a zip archive (also .npz), stored with its right checksum."""
    if not data.startswith(b"PK\x03\x04"):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {
            info.filename: archive.read(info)
            for info in archive.infolist()[:32]
            if info.file_size < LARGEST_UNPACKED
        }

    def closed(name: str, new: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for member, content in members.items():
                archive.writestr(member, new if member == name else content)
        return stream.getvalue()

    for name, content in members.items():
        yield Layer(content, lambda new, name=name: closed(name, new))  # type: ignore[misc]


def _matlab(data: bytes) -> Iterator[Layer]:
    """Each compressed element of a MAT-file of level 5."""
    place = 128
    while data.startswith(b"MATLAB 5.0") and place + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, place)
        start, stop = place + 8, place + 8 + size
        if kind == 15:
            content = zlib.decompressobj().decompress(data[start:stop], LARGEST_UNPACKED)

            def closed(new: bytes, start: int = start, stop: int = stop) -> bytes:
                packed = zlib.compress(new, 1)
                return data[: start - 8] + struct.pack("<II", 15, len(packed)) + packed + data[stop:]

            yield Layer(content, closed)
        place = stop


def _deflated(data: bytes) -> Iterator[Layer]:
    """The data set of a DICOM file of the deflated transfer syntax."""
    if data[128:132] != b"DICM" or b"1.2.840.10008.1.2.1.99" not in data[:1024]:
        return
    start = 144 + int.from_bytes(data[140:144], "little")

    def closed(new: bytes) -> bytes:
        deflater = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
        return data[:start] + deflater.compress(new) + deflater.flush()

    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:], LARGEST_UNPACKED)
    yield Layer(inflated, closed)


def _dicom(data: bytes) -> Iterator[Layer]:
    """What follows in a DICOM file where it says that it is an ECG, without which it is refused at once."""
    start = data.rfind(b"1.2.840.10008.5.1.4.1.1.9.1.", 0, 4096)
    if start >= 0 and data[128:132] == b"DICM":
        yield Layer(data[start + 30 :], lambda new: data[: start + 30] + new)


def _gzip(data: bytes) -> Iterator[Layer]:
    if data.startswith(b"\x1f\x8b"):
        content = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data, LARGEST_UNPACKED)
        for inner in layers(content):
            yield Layer(inner.content, lambda new, inner=inner: gzip.compress(inner.closed(new), 1))  # type: ignore[misc]


def _tar(data: bytes) -> Iterator[Layer]:
    """A tar archive, the checksums of whose headers are computed again."""
    if data[257:262] == b"ustar":
        yield Layer(data, with_tar_checksums)


def with_tar_checksums(data: bytes) -> bytes:
    """A tar archive with right checksums in every block that has the mark of a header."""
    out = bytearray(data)
    for place in range(0, len(out) - 511, 512):
        if out[place + 257 : place + 262] == b"ustar":
            out[place + 148 : place + 156] = b" " * 8
            out[place + 148 : place + 156] = b"%06o\0 " % sum(out[place : place + 512])
    return bytes(out)


def _parquet(data: bytes) -> Iterator[Layer]:
    """A Parquet file as it is, and each entry of its metadata, rewritten."""
    if not data.startswith(b"PAR1"):
        return
    yield Layer(data, bytes)
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    stated = dict(table.schema.metadata or {})

    def closed(key: bytes, new: bytes) -> bytes:
        stream = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(stated | {key: new}), stream)
        return stream.getvalue()

    for key, content in stated.items():
        yield Layer(content, lambda new, key=key: closed(key, new))  # type: ignore[misc]
