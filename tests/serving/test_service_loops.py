"""Workers that share a port share its connections, and none is lost."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
from pathlib import Path

import pytest

from serving.loops import ENDING, FOLDER, WORKERS, Accepting, Shared

CONNECTIONS = 24


class Echo(asyncio.Protocol):
    """Sends back what comes, and counts connections."""

    def __init__(self, made: list[Echo]) -> None:
        made.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest.fixture
def sockets() -> list[socket.socket]:
    """Two handles of one listening socket, as two processes have them."""
    first = socket.create_server(("127.0.0.1", 0))
    first.setblocking(False)
    return [first, first.dup()]


def test_connections_are_shared_and_answered(sockets: list[socket.socket]) -> None:
    counts: list[list[Echo]] = [[], []]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        port = sockets[0].getsockname()[1]
        workers = [
            Accepting(loop, sock, lambda made=made: Echo(made), None)  # type: ignore[misc]
            for sock, made in zip(sockets, counts, strict=True)
        ]
        clients = await asyncio.gather(
            *(asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS))
        )
        for number, (reader, writer) in enumerate(clients):
            writer.write(b"%d\n" % number)
            assert await asyncio.wait_for(reader.readline(), 5) == b"%d\n" % number
        for _, writer in clients:
            writer.close()
        for worker in workers:
            worker.close()
            await worker.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(main())
    assert sum(map(len, counts)) == CONNECTIONS
    assert min(map(len, counts)) >= CONNECTIONS // 6


class Counting(selectors.DefaultSelector):
    """Counts how often it is asked."""

    asked = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.asked += 1
        return super().select(timeout)


def test_a_worker_that_has_closed_its_handle_is_not_woken_by_connections(
    sockets: list[socket.socket],
) -> None:
    selector = Counting()

    async def main() -> None:
        worker = Accepting(asyncio.get_running_loop(), sockets[0], lambda: Echo([]), None)
        await asyncio.sleep(0.05)
        worker.close()
        await worker.wait_closed()
        with socket.create_connection(sockets[1].getsockname()):  # waits for the other handle
            before = selector.asked
            await asyncio.sleep(0.2)
        assert selector.asked - before < 20

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(main())
    sockets[1].close()


def test_nothing_is_accepted_before_all_are_ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv(WORKERS, "2")
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(8)
    made: list[Echo] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        opening = asyncio.create_task(loop.create_server(lambda: Echo(made), sock=listening, backlog=8))
        await asyncio.sleep(0.1)
        _, writer = await asyncio.open_connection(*listening.getsockname())
        await asyncio.sleep(0.1)
        assert not opening.done()
        assert not made
        (tmp_path / f"{os.getpid() + 1}.ready").touch()
        server = await asyncio.wait_for(opening, 5)
        await asyncio.sleep(0.1)
        assert len(made) == 1
        writer.close()
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=Shared) as runner:
        runner.run(main())


def test_who_waits_for_the_others_stops_when_all_are_to_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv(WORKERS, "2")
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(8)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        opening = asyncio.create_task(loop.create_server(lambda: Echo([]), sock=listening))
        await asyncio.sleep(0.1)
        assert not opening.done()
        (tmp_path / ENDING).touch()
        server = await asyncio.wait_for(opening, 5)
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=Shared) as runner:
        runner.run(main())
