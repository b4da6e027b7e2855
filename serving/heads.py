"""HTTP heads with an end: httptools, which uvicorn parses with, would collect one of any size."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 2**16
TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHeads(HttpToolsProtocol):
    """Ends a connection whose request's head grows beyond 64 KiB (and what was read with its beginning)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._within_head = False
        self._head_bytes = 0

    def on_message_begin(self) -> None:
        """A request begins."""
        self._within_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._within_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the head has been too long already."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._within_head:
            self._head_bytes += len(data)
            if self._head_bytes > LONGEST_HEAD and not self.transport.is_closing():
                self.transport.write(TOO_LONG)
                self.transport.close()
