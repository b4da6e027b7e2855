"""Parse untrusted XML into a tree, within bounds: no entities, no declarations, no fetching, limited size.

The parser is that of the standard library (expat). A document type with an internal subset is refused
altogether, because entities and default attributes let a small file expand into a huge tree; one that
only names a DTD, as written by GE MUSE, is ignored and never fetched.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ibt_deploy.errors import MalformedFile, TooLong
from ibt_deploy.files import File

MAX_BYTES = 8 << 20
MAX_ELEMENTS = 250_000
MAX_DEPTH = 200
MAX_TAG_BYTES = 1 << 20
"""Far beyond any ECG of minutes; so a tree takes less than 500 MB and 2 s for any file."""

MAX_LISTED = 64
_CHUNK = 1 << 16
_FIRST_NAME = re.compile(
    r"(?:\s|<\?[^>]*\?>|<!--.*?-->)*<(?:!DOCTYPE\s+)?(?P<name>[A-Za-z_][\w:.-]*)", re.DOTALL
)
_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def root_name(head: bytes) -> str | None:
    """Name of the root element, or as stated by the document type, without its namespace.

    None if ``head`` does not begin an XML document.
    """
    text = head.decode(_BYTE_ORDER_MARKS.get(head[:2], "utf-8"), errors="replace")
    match = _FIRST_NAME.match(text.lstrip("\ufeff"))
    return None if match is None else local_name(match["name"])


def local_name(name: str) -> str:
    """``name`` without its namespace prefix."""
    return name.rpartition(":")[2]


def parsed(file: File) -> Element:
    """The root of an XML document; element names lose their namespaces, attribute names keep them.

    Raises
    ------
    MalformedFile
        Not well-formed, too deep, or with a document type that declares something (``unsafe_xml``).
    TooLong
        Larger than any ECG of minutes.
    """
    if file.stat().st_size > MAX_BYTES:
        raise TooLong(f"larger than {MAX_BYTES >> 20} MiB of XML", code="recording_too_long")
    tree = _BoundedTree()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.buffer_size = _CHUNK
    parser.StartDoctypeDeclHandler = _refuse_declarations
    parser.EntityDeclHandler = _refuse_entity
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                parser.Parse(chunk)
                # text is passed on as it arrives, so only a single tag or comment is held back
                if stream.tell() - max(parser.CurrentByteIndex, 0) > MAX_TAG_BYTES:
                    raise MalformedFile("a tag longer than any ECG has", code="bad_xml")
        parser.Parse(b"", True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise MalformedFile(f"is not well-formed XML: {error}", code="bad_xml") from error
    return tree.close()


def children(element: Element, name: str) -> Iterator[Element]:
    """Elements called ``name`` directly below ``element``."""
    return (child for child in element if child.tag == name)


class _BoundedTree:
    """Builds the tree, and stops if it becomes too large."""

    def __init__(self) -> None:
        self._builder = TreeBuilder()
        self._elements = 0
        self._depth = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        self._depth += 1
        if self._elements > MAX_ELEMENTS or self._depth > MAX_DEPTH:
            raise MalformedFile("more XML elements than any ECG has", code="bad_xml")
        self._builder.start(local_name(name), attributes)

    def end(self, name: str) -> None:
        self._depth -= 1
        self._builder.end(local_name(name))

    def data(self, text: str) -> None:
        self._builder.data(text)

    def close(self) -> Element:
        return self._builder.close()


def _refuse_declarations(_name: str, _system: str | None, _public: str | None, has_subset: int) -> None:
    if has_subset:
        raise _unsafe()


def _refuse_entity(*_declaration: object) -> None:
    raise _unsafe()


def _unsafe() -> MalformedFile:
    return MalformedFile("declares entities or attributes of its own; remove its DOCTYPE", code="unsafe_xml")


_NUMBER = re.compile(r"\s*[+-]?(?:\d{1,18}\.?\d{0,18}|\.\d{1,18})(?:[eE][+-]?\d{1,3})?\s*")


def text_of(element: Element, path: str) -> str:
    """Text at ``path`` below ``element``, stripped; empty if there is none."""
    return (element.findtext(path) or "").strip()


def number_in(text: str) -> float | None:
    """``text`` as a finite number, or None."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def decoded(text: str, what: str) -> bytes:
    """Bytes of a Base64 text, ignoring blanks and line ends; raises MalformedFile if it is damaged."""
    packed = "".join(text.split())
    try:
        return base64.b64decode(packed.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise MalformedFile(f"{what}: damaged Base64") from error


def outline_of(file: File, *paths: str, leads: str = "") -> dict[str, Any]:
    """The root element and any texts at ``paths``, keyed by the names of their last elements.

    Parameters
    ----------
    leads
        Path of the leads whose names are listed; ends in ``@attribute`` if the name is an attribute.
    """
    root = parsed(file)
    found: dict[str, Any] = {"root": root.tag[:80]}
    for path in paths:
        element = root.find(path)
        if element is not None:
            stated = " ".join([(element.text or "").strip(), *element.attrib.values()]).strip()
            found[local_name(path.rpartition("/")[2])] = stated[:80]
    if leads:
        where, _, attribute = leads.partition("@")
        names = [
            e.get(attribute, "") if attribute else (e.text or "") for e in root.iterfind(where.rstrip("/"))
        ]
        found["leads"] = list(dict.fromkeys(name.strip()[:20] for name in names))[:MAX_LISTED]
    return found
