"""The service as a process of its own, and what it takes of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import psutil

COMMANDS = {
    "ibt serve": ("ibt", "serve"),
    "bentoml serve": ("bentoml", "serve", "serving.service:Scoring"),
    "uvicorn": (
        "uvicorn", "serving.http.app:application", "--factory", "--lifespan", "off", "--no-access-log",
        "--log-level", "warning",
    ),
}  # fmt: skip
"""Servers of the same application: the service under granian and under BentoML's own server, and the
application without BentoML under uvicorn."""


@dataclass(frozen=True)
class Server:
    """A running service."""

    port: int
    process: psutil.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def resident(self) -> int:
        """Bytes of memory that all of its processes hold."""
        total = 0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def cpu_seconds(self) -> float:
        """CPU time of all of its processes so far."""
        total = 0.0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total


@contextmanager
def started(
    *options: str, server: str = "ibt serve", patience: float = 90.0, **environment: str
) -> Iterator[Server]:
    """Start the service on a free port of the loopback interface; it is stopped at the end.

    Parameters
    ----------
    options
        Of the server's command.
    server
        One of :data:`COMMANDS`.
    patience
        Seconds after which it must be ready.
    environment
        Variables to set for it.
    """
    port = _free_port()
    command = [str(Path(sys.executable).with_name(COMMANDS[server][0])), *COMMANDS[server][1:]]
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port), *options],
                stdout=stream,
                stderr=stream,
                env=os.environ | environment,
                start_new_session=True,
            )
        try:
            _wait_until_ready(port, process, log, patience)
            yield Server(port, psutil.Process(process.pid))
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except OSError:
            pass  # not there yet, or not ready: urllib's errors are all of this kind
        time.sleep(0.1)
    raise RuntimeError(f"the service is not ready:\n{log.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
