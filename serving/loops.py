"""The event loop of a worker that shares its port with others.

Clients keep their connections, and with them the worker that has accepted them. asyncio accepts whatever
waits, so that the first worker to wake would have all the work and the others none.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from socket import socket
from typing import Any
from weakref import WeakSet

from serving.settings import PREFIX

FOLDER, WORKERS = "PROMETHEUS_MULTIPROC_DIR", f"{PREFIX}WORKERS"
"""Variables that name a folder of this group of workers, where figures are too, and say how many they are."""
ENDING = "ending"
"""In that folder as soon as all are to end."""
READY_SECONDS = 30.0
HANDSHAKE_SECONDS = 10.0
MOST_IN_A_ROW = 64
PAUSE_SECONDS, LONGEST_PAUSE = 0.002, 0.008
FULL_SECONDS = 1.0
WATCH_SECONDS = 1.0


class Shared(asyncio.SelectorEventLoop):
    """Accepts once all workers can, and lets workers with fewer connections accept first."""

    def __init__(self) -> None:
        super().__init__()
        self._watching: asyncio.Task[None] | None = None

    async def create_server(self, factory: Any, *_: Any, **options: Any) -> Any:  # type: ignore[override]
        """A server on the socket ``sock``, which listens already; parameters as asyncio has them."""
        self._watching = self.create_task(_end_with_parent())
        await _all_ready()
        sock: socket = options["sock"]
        sock.setblocking(False)
        return Accepting(self, sock, factory, options.get("ssl"))


class Accepting:
    """Accepts connections until it is closed, as far as uvicorn asks an asyncio.Server.

    After each it pauses, the longer the more are open, so that another worker gets the next; while there are
    ever more waiting it takes twice as many in a row as the time before.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket,
        factory: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._loop, self._sock, self._factory, self._tls = loop, sock, factory, tls
        self._open: WeakSet[asyncio.BaseTransport] = WeakSet()
        self._beginning: set[asyncio.Task[None]] = set()
        self._accepting = loop.create_task(self._accept())

    def close(self) -> None:
        """Accept nothing more."""
        self._accepting.cancel()
        # the selector would go on to report a socket that is closed here and open in another process
        self._loop.remove_reader(self._sock)
        self._sock.close()

    async def wait_closed(self) -> None:
        """Return when nothing more is accepted."""
        await asyncio.wait([self._accepting])

    async def _accept(self) -> None:
        in_a_row = 1
        while True:
            try:
                self._begin((await self._loop.sock_accept(self._sock))[0])
                for _ in range(in_a_row - 1):
                    connection = self._sock.accept()[0]
                    connection.setblocking(False)
                    self._begin(connection)
                in_a_row = min(2 * in_a_row, MOST_IN_A_ROW)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                in_a_row = 1  # nobody waits any more
            except OSError:
                await asyncio.sleep(FULL_SECONDS)  # too many files are open
            await asyncio.sleep(min(PAUSE_SECONDS * len(self._open), LONGEST_PAUSE))

    def _begin(self, connection: socket) -> None:
        task = self._loop.create_task(self._connect(connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _connect(self, connection: socket) -> None:
        with contextlib.suppress(OSError):  # it broke, or TLS could not be agreed on
            transport, _ = await self._loop.connect_accepted_socket(
                self._factory,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls else None,
            )
            self._open.add(transport)


def _watched() -> bool:
    """Whether the process that started this worker lives, even if it died before the models were loaded."""
    parent = multiprocessing.parent_process()
    return parent is None or parent.is_alive()


async def _end_with_parent() -> None:
    """End this worker in order, should the process that watches over it be killed."""
    while _watched():
        await asyncio.sleep(WATCH_SECONDS)
    signal.raise_signal(signal.SIGTERM)


async def _all_ready() -> None:
    """Wait until as many workers as there are to be have come here; not for long, one may be failing."""
    folder, workers = Path(os.environ[FOLDER]), int(os.environ[WORKERS])
    (folder / f"{os.getpid()}.ready").touch()
    given_up = time.monotonic() + READY_SECONDS
    while _watched() and len(list(folder.glob("*.ready"))) < workers and time.monotonic() < given_up:
        if (folder / ENDING).exists() or not folder.exists():
            return
        await asyncio.sleep(0.02)
