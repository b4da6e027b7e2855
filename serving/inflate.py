"""gzip and zlib streams, decompressed piece by piece, so that a bomb is seen before it goes off."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from serving.problems import Problem

GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
PIECE = 2**18


class Inflater:
    """Decompresses one stream; several gzip members in a row are one content, as RFC 1952 says."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(GZIP_OR_ZLIB)
        self._begun = False

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """What ``chunk`` decompresses to, at most 256 KiB at a time; raises a Problem where it is damaged."""
        try:
            while chunk:
                if self._stream.eof:
                    self._stream = zlib.decompressobj(GZIP_OR_ZLIB)
                self._begun = True
                piece = self._stream.decompress(chunk, PIECE)
                chunk = self._stream.unconsumed_tail or self._stream.unused_data
                yield piece
            while self._begun and not self._stream.eof and (piece := self._stream.decompress(b"", PIECE)):
                yield piece
        except zlib.error:
            raise Problem("bad_compression", "The content is not what gzip or zlib writes.") from None

    def finish(self) -> None:
        """Raise a Problem where the stream has not come to its end."""
        if self._begun and not self._stream.eof:
            raise Problem("bad_compression", "The compressed content ends too early.")
