"""The server of ``ibt serve``: uvicorn around BentoML's application, in one process or several.

BentoML's own launcher works as well (docs/service.md); this one needs no supervisor for a single process,
stops accepting at once when it is told to end, and then ends with status 0.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from ibt_deploy.errors import BundleError
from ibt_deploy.printable import one_line
from serving.bundles import load_bundles
from serving.loops import ENDING, FOLDER, WORKERS
from serving.settings import Settings, SettingsError, share_state_key

APP = "serving.service:asgi"
SHARED_LOOP = "serving.loops:Shared"
KEEP_ALIVE_SECONDS = 30
BACKLOG = 2048
HUNG_SECONDS = 60
"""Without a sign of life; a worker that is being started on a busy machine gives none for a while."""


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
        The environment states a setting that cannot be used, the certificate is of no use, or the port is
        taken.
    SystemExit
        With status 3: a bundle cannot be used, or a worker failed before it served.
    """
    _check_bundles(Settings.from_environment())
    if certificate is not None:
        _check_certificate(certificate, key)
    share_state_key()
    config = uvicorn.Config(
        APP,
        factory=True,
        host=host,
        port=port,
        workers=workers,
        backlog=BACKLOG,
        http=_http(),
        ws="none",
        loop="auto" if workers == 1 else SHARED_LOOP,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain_seconds,
        timeout_worker_healthcheck=HUNG_SECONDS,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    listening = _listening(host, port)
    scheme = "http" if certificate is None else "https"
    if workers == 1:
        _announce(scheme, listening)
        # uvicorn raises the signal once more at the end, for whoever was there before it
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run([listening])
        return
    with tempfile.TemporaryDirectory(prefix="ibt-workers-") as folder:
        os.environ |= {FOLDER: folder, WORKERS: str(workers)}
        group = _Workers(config, [listening])
        _announce(scheme, listening)
        group.run()
    if any(process.exitcode == STARTUP_FAILURE for process in group.processes):
        sys.exit(STARTUP_FAILURE)


def _announce(scheme: str, listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    print(f"ibt: serving on {scheme}://{name}:{port} (Ctrl-C ends it)", file=sys.stderr, flush=True)


def _check_certificate(certificate: Path, key: Path | None) -> None:
    """Refuse here what no worker could begin with, nor ask for a password."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # those of ssl are among them
        named = f"{certificate}" if key is None else f"{certificate} and {key}"
        raise SettingsError(f"cannot use {named} for TLS: {error.strerror or error}") from error


def _check_bundles(settings: Settings) -> None:
    """End here, in one line, where every worker would end with a traceback of its own."""
    try:
        load_bundles(settings)
    except BundleError as error:
        print(f"ibt: {one_line(error)}", file=sys.stderr, flush=True)
        sys.exit(STARTUP_FAILURE)


def _http() -> Any:
    """What parses HTTP: httptools within bounds where it is installed, else h11, which has its own."""
    try:
        from serving.heads import BoundedHeads
    except ModuleNotFoundError:
        return "auto"
    return BoundedHeads


class _Workers(Multiprocess):
    """Starts workers, and others for those that die.

    The port is let go of as soon as they are told to end, so that nobody waits in vain; what a dead worker
    was doing is taken out of the figures.
    """

    def init_processes(self) -> None:
        # what is ignored here is ignored by workers until they serve: they end by the signal of this process,
        # without a traceback each, when the keyboard interrupts them all
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        super().init_processes()
        signal.signal(signal.SIGINT, before)

    def keep_subprocess_alive(self) -> None:
        for process in self.processes:
            # its own end is the worker's alone, so that the pipe breaks, and no answer is waited for, when
            # the worker ends
            process.child_conn.close()
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for dead in before - {process.pid for process in self.processes}:
            mark_process_dead(dead)  # type: ignore[no-untyped-call]

    def terminate_all(self) -> None:
        with contextlib.suppress(OSError):  # who cleans up temporary folders must not keep us from ending
            (Path(os.environ[FOLDER]) / ENDING).touch()
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
        # at once: others could bind as well until somebody listens; who comes early waits for the workers
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise SettingsError(f"cannot listen on port {port} of {host}: {error.strerror or error}") from error
    listening.set_inheritable(True)
    return listening
