"""``ibt serve``."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from ibt_deploy.cli.group import model_options
from ibt_deploy.device import Device
from serving.settings import PREFIX, Settings, SettingsError, default_threads, default_workers

_LIMITS = ", ".join(
    f"{PREFIX}{setting.name.upper()} ({setting.default:.10g})"
    for setting in fields(Settings)
    if isinstance(setting.default, int | float)
)


@click.command(
    epilog=f"""\b
Examples:
  ibt serve
  ibt serve --host 0.0.0.0 --token-file token.txt --ssl-certfile cert.pem --ssl-keyfile key.pem
  ibt serve --workers 4 --threads 2

Environment variables set limits (in bytes and seconds; 0 lets the machine decide): {_LIMITS}.

Research software, not a medical device."""
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Processes. [default: one per usable CPU, or per --threads CPUs; on a GPU one per four CPUs]",
)
@click.option(
    "--threads",
    envvar=f"{PREFIX}THREADS",
    type=click.IntRange(0, 256),
    help="Requests that a process computes at once. [default: its share of the CPUs]",
)
@click.option(
    "--batch", type=click.IntRange(1, 256), help="Waiting requests that share a run. [default: 8, GPU 32]"
)
@click.option(
    "--queue", type=click.IntRange(1, 100_000), help="Requests of a process that may wait. [default: 64]"
)
@click.option("--token-file", type=click.File(), help="Require the bearer token in this file.")
@click.option(
    "--state-key-file",
    type=click.File(),
    help="Secrets that sign states, one per line, the newest first. [default: random]",
)
@click.option("--ssl-certfile", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--ssl-keyfile", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--drain-seconds",
    default=30,
    show_default=True,
    type=click.IntRange(1),
    help="Time allowed to finish requests in progress at SIGTERM.",
)
@click.option(
    "--sepsis-bundle", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
    help="Sepsis bundle to use instead of the packaged one; --bundle is for arrhythmia.",
)  # fmt: skip
@model_options
def serve(
    host: str,
    port: int,
    workers: int | None,
    threads: int | None,
    batch: int | None,
    queue: int | None,
    token_file: Any,
    state_key_file: Any,
    ssl_certfile: Path | None,
    ssl_keyfile: Path | None,
    drain_seconds: int,
    sepsis_bundle: Path | None,
    device: Device,
    bundle: Path | None,
    precision: str | None,
    operating_point: str | None,
) -> None:
    """Serve predictions over HTTP, and a page that draws them.

    The page is at the address that is printed, the documentation under /docs.
    """
    if operating_point is not None:
        raise click.UsageError("requests choose their operating point: ?operating_point=NAME")
    if ssl_keyfile and not ssl_certfile:
        raise click.UsageError("--ssl-keyfile needs --ssl-certfile")
    processes = workers or default_workers(device, threads)
    _configure(
        arrhythmia=bundle,
        sepsis=sepsis_bundle,
        device=device,
        precision=precision,
        threads=threads or default_threads(processes),
        batch=batch,
        queue=queue,
        token=_secret(token_file),
        state_key=_secret(state_key_file),
    )
    from serving.server import run

    run(host, port, processes, drain_seconds, ssl_certfile, ssl_keyfile)


def _configure(**stated: object) -> None:
    """Put the stated options into the environment, where the workers read them."""
    for name, value in stated.items():
        if value is not None:
            os.environ[f"{PREFIX}{name.upper()}"] = str(value)


def _secret(file: Any) -> str | None:
    """The content of a secrets file, or None without such an option; raises SettingsError if blank."""
    if file is None:
        return None
    try:
        content = str(file.read()).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {file.name}") from error
    if not content:
        raise SettingsError(f"{file.name} is empty; a secret was probably not filled in")
    return content
