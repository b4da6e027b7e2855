"""A service as a separate process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START = [sys.executable, "-c", "from serving.cli import serve; serve()", "--device", "cpu"]
SECONDS_TO_START = 60


@contextmanager
def running(
    root: Path, *options: str, start_new_session: bool = False, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of a service on a port of its own, once it is ready, and its address."""
    process = subprocess.Popen(
        [*START, "--port", "0", *options],
        cwd=root,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )
    assert process.stderr is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    try:
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        reader.start()
        await_ready(process, found[0])
        yield process, found[0]
    finally:
        process.terminate()
        try:
            process.wait(SECONDS_TO_START)
        except subprocess.TimeoutExpired:
            process.kill()
        # if a worker outlives it and holds the pipe, closing would wait for the reader
        reader.join(SECONDS_TO_START / 6)
        if not reader.is_alive():
            process.stderr.close()


def await_ready(process: subprocess.Popen[str], address: str) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        assert process.poll() is None
        try:
            if httpx.get(f"{address}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the service did not become ready")


def await_closed(address: str) -> None:
    """Wait until nothing more is accepted."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            httpx.get(f"{address}/livez", timeout=5)
        except httpx.TransportError:
            return
        time.sleep(0.05)
    raise AssertionError("still accepts")


def upload(root: Path, *names: str) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (name, (root / "examples" / name).read_bytes())) for name in names]
