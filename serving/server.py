"""The server of ``ibt serve``: uvicorn around BentoML's application, in one process or several.

BentoML's own launcher works as well (docs/service.md); this one needs no supervisor for a single process,
stops accepting at once when it is told to end, and then ends with status 0.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from serving.settings import Settings, share_state_key

APP = "serving.service:asgi"
KEEP_ALIVE_SECONDS = 30
BACKLOG = 2048
SWITCH_SECONDS = 0.0005
"""How long a computing thread may keep the interpreter from the one that accepts and refuses requests."""
MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def run(
    host: str, port: int, workers: int, drain_seconds: int, certificate: Path | None, key: Path | None
) -> None:
    """Serve until SIGTERM or SIGINT, finish what has begun, and return.

    Parameters
    ----------
    host, port
        Where to listen; port 0 takes any that is free.
    workers
        Processes.
    drain_seconds
        For what has begun when the signal comes.
    certificate, key
        For TLS.

    Raises
    ------
    SettingsError
        The environment states a setting that cannot be used.
    OSError
        The port is taken.
    """
    Settings.from_environment()
    share_state_key()
    sys.setswitchinterval(SWITCH_SECONDS)
    config = uvicorn.Config(
        APP,
        factory=True,
        host=host,
        port=port,
        workers=workers,
        backlog=BACKLOG,
        http=_http(),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain_seconds,
        timeout_worker_healthcheck=60,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    listening = _listening(host, port)
    address = listening.getsockname()
    name = f"[{address[0]}]" if ":" in address[0] else address[0]
    scheme = "http" if certificate is None else "https"
    print(f"ibt: serving on {scheme}://{name}:{address[1]} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    if workers == 1:
        # uvicorn raises the signal once more at the end, for whoever was there before it
        signal.signal(signal.SIGTERM, lambda *_: None)
        uvicorn.Server(config).run([listening])
        return
    with tempfile.TemporaryDirectory(prefix="ibt-figures-") as folder:
        os.environ[MULTIPROCESS_FOLDER] = folder
        _Workers(config, [listening]).run()


def _http() -> Any:
    """What parses HTTP: httptools within bounds where it is installed, else h11, which has its own."""
    try:
        from serving.heads import BoundedHeads
    except ModuleNotFoundError:
        return "auto"
    return BoundedHeads


class _Workers(Multiprocess):
    """Lets go of the port as soon as the workers are told to end, so that nobody waits in vain."""

    def terminate_all(self) -> None:
        super().terminate_all()
        for listening in self.sockets:
            listening.close()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small packets at once (TCP_NODELAY) only where the protocol is stated: 40 ms an answer
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    listening.set_inheritable(True)
    return listening
