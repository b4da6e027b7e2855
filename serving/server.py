"""The server of ``ibt serve``: granian around BentoML's ASGI application.

granian starts the workers, replaces those that die, bounds headers, trailers and the time that headers may
take, and finishes pending requests at SIGTERM. ``bentoml serve`` works as well (docs/service.md says what it
lacks).
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import ssl
import sys
import tempfile
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import Server

from ibt_deploy.device import driver_is_there
from ibt_deploy.errors import BundleError, one_line
from serving.models import load_bundles
from serving.settings import PREFIX, Settings, SettingsError, share_state_key

APP = "serving.service:asgi"
HEAD_MILLISECONDS = 10_000
HEAD_BYTES = 2**16
BACKLOG = 4096
STARTUP_FAILURE = 3


def run(
    host: str, port: int, workers: int, drain_seconds: int, certificate: Path | None, key: Path | None
) -> None:
    """Serve until SIGTERM or SIGINT, finish pending requests, and return.

    Parameters
    ----------
    host, port
        Address to listen on; port 0 picks any free port.
    workers
        Number of processes.
    drain_seconds
        Time for requests that are pending at the signal.
    certificate, key
        Files for TLS.

    Raises
    ------
    SettingsError
        The environment holds an unusable setting, the certificate is unusable, or the port is
        taken.
    SystemExit
        With status 3 if a bundle or the device cannot be used, with 1 if a worker keeps failing.
    """
    settings = Settings.from_environment()
    _check_bundles(settings)
    if certificate is not None:
        _check_certificate(certificate, key)
    share_state_key()
    warn_if_open(host, settings, certificate)
    with _reserved(host, port) as reserved, tempfile.TemporaryDirectory(prefix="ibt-metrics-") as figures:
        port = reserved.getsockname()[1]
        os.environ |= {"PROMETHEUS_MULTIPROC_DIR": figures, f"{PREFIX}WORKERS": str(workers)}
        server = Server(
            APP,
            address=host,
            port=port,
            interface=Interfaces.ASGI,
            workers=workers,
            loop=Loops.asyncio,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=HEAD_MILLISECONDS, max_buffer_size=HEAD_BYTES),
            websockets=False,
            backlog=BACKLOG,
            respawn_failed_workers=True,
            respawn_interval=0.1,
            workers_kill_timeout=drain_seconds,
            ssl_cert=certificate,
            ssl_key=certificate if key is None else key,
            ssl_protocol_min=SSLProtocols.tls12,
            log_level=LogLevels.warning,
        )
        # a forked worker would share locks and threads of numerical libraries with this process
        multiprocessing.set_start_method("spawn", force=True)
        announce("http" if certificate is None else "https", host, port)
        server.serve(target_loader=_application, wrap_loader=False)


def _application() -> Callable[..., Awaitable[None]]:
    """Import the service in a worker; granian's own loader prefers a package in the current folder."""
    from serving.service import asgi

    return asgi()


def warn_if_open(host: str, settings: Settings, certificate: Path | None) -> None:
    """Warn about what anyone on the network could do or read."""
    if _is_loopback(host):
        return
    if not settings.token:
        _say(f"WARNING: {host} is open to anyone who can reach it: no token (--token-file)")
    if certificate is None:
        _say(f"WARNING: requests to {host}, and the token, are not encrypted: no TLS (--ssl-certfile)")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def announce(scheme: str, host: str, port: int) -> None:
    """Print the service's address, and write it to the file that ``IBT_SERVE_ADDRESS_FILE`` names."""
    name = f"[{host}]" if ":" in host else host
    _say(f"serving on {scheme}://{name}:{port} (Ctrl-C ends it)")
    file = os.environ.get(f"{PREFIX}ADDRESS_FILE")
    if file:
        local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, name)
        Path(file).write_text(f"{scheme}://{local}:{port}\n", encoding="ascii")


def _say(text: str) -> None:
    print(f"ibt: {text}", file=sys.stderr, flush=True)


def _check_certificate(certificate: Path, key: Path | None) -> None:
    """Refuse a certificate with which no worker could start, without prompting for a password."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # includes those of ssl
        named = f"{certificate}" if key is None else f"{certificate} and {key}"
        raise SettingsError(f"cannot use {named} for TLS: {error.strerror or error}") from error


def _check_bundles(settings: Settings) -> None:
    """Fail here, in one line, rather than with a traceback from every worker."""
    try:
        load_bundles(settings)
        if settings.device == "cuda" and not driver_is_there():
            raise BundleError("there is no CUDA driver; use --device cpu")
    except BundleError as error:
        _say(one_line(error))
        sys.exit(STARTUP_FAILURE)


def _reserved(host: str, port: int) -> socket.socket:
    """A socket that reserves the port for the workers, each of which listens on its own (SO_REUSEPORT)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reserved = socket.socket(family, socket.SOCK_STREAM)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = probe.getsockname()[1]
        # without SO_REUSEADDR: two sockets that have it, and do not listen yet, could share the port
        if hasattr(socket, "SO_REUSEPORT"):
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, port))
    except OSError as error:
        reserved.close()
        raise SettingsError(f"cannot listen on port {port} of {host}: {error.strerror or error}") from error
    return reserved
