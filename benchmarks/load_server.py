"""The service as a separate process, and the resources it uses."""

from __future__ import annotations

import ast
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
from textwrap import dedent
from urllib.request import urlopen

import psutil

ROOT = Path(__file__).resolve().parents[1]
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

PARTS = {
    "serving.server": ("ibt serve",),
    "serving.cli": ("ibt serve",),
    "serving.health": ("ibt serve",),
    "serving.settings.default_workers": ("ibt serve",),
    "serving.settings.default_threads": ("ibt serve",),
    "serving.service.asgi": ("ibt serve",),
    "serving.service.end_with_parent": ("ibt serve",),
    "serving.service._stop_at_the_first_signal": ("ibt serve",),
    "serving.service": ("ibt serve", "bentoml serve"),
    "serving.http.app.Application.guard": ("ibt serve", "bentoml serve"),
    "serving.http.app.application": ("uvicorn",),
    "serving.http.app.Application.__call__": ("uvicorn",),
    "serving.http.app._probes": ("uvicorn",),
}
"""Our modules, functions and methods that only some servers need, with those servers; a part of another entry
is not counted there. All servers need the rest: routes, limits, checks, scoring and the page."""


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
        """Resident memory of all its processes, in bytes."""
        total = 0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        total = 0.0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total


def lines_of_code(source: str) -> int:
    """Lines that hold code: neither blank, nor a comment, nor part of a standalone string."""
    text: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(
        number not in text and bool(line.strip()) and not line.strip().startswith("#")
        for number, line in lines
    )


def lines_needed(server: str) -> tuple[int, int]:
    """Lines of our code that only this server needs, and lines that it and some others need."""
    counts = {part: lines_of_code(_source(part)) for part in PARTS}
    for part in PARTS:
        within = next((other for other in PARTS if part.startswith(f"{other}.")), None)
        if within is not None:
            counts[within] -= counts[part]
    own = sum(counts[part] for part, servers in PARTS.items() if servers == (server,))
    shared = sum(counts[part] for part, servers in PARTS.items() if server in servers and len(servers) > 1)
    return own, shared


def _source(part: str) -> str:
    """Source of the module, function or method with this dotted name; raises KeyError if there is none."""
    names = part.split(".")
    length = next(
        n for n in range(len(names), 0, -1) if (ROOT / Path(*names[:n])).with_suffix(".py").is_file()
    )
    source = (ROOT / Path(*names[:length])).with_suffix(".py").read_text(encoding="utf-8")
    body = ast.parse(source).body
    for name in names[length:]:
        named = {
            n.name: n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        found = named[name]
        body = found.body
        first = min([found.lineno, *(decorator.lineno for decorator in found.decorator_list)])
        lines = source.splitlines()[first - 1 : found.end_lineno]
    return dedent("\n".join(lines)) if names[length:] else source


@contextmanager
def started(
    *options: str, server: str = "ibt serve", patience: float = 90.0, **environment: str
) -> Iterator[Server]:
    """Start the service on a free loopback port; it is stopped at the end.

    Parameters
    ----------
    options
        Options of the server's command.
    server
        One of :data:`COMMANDS`.
    patience
        Seconds within which it must be ready.
    environment
        Environment variables to set for it.
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
            pass  # not up yet, or not ready: all urllib errors are OSErrors
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
