"""The command group: commands are imported when they are called, so that ``ibt predict`` starts fast.

Commands of other packages (``ibt train``, ``ibt export``) are entry points of the group ``ibt.commands``.
Looking them up takes 50 ms, so it is done only for a command that is not our own, and for the list.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from ibt_deploy.device import DEVICES
from ibt_deploy.errors import IbtError, missing_extra, one_line
from ibt_deploy.predictions import Refusal

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


ENTRY_POINTS = "ibt.commands"
OWN: dict[str, str] = {
    "predict": "Score ECG recordings and ICU stays.",
    "batch": "Score a whole export: every record answered or refused, resumable.",
    "inspect": "Show what was read and everything preprocessing would change.",
    "models": "List the models that are installed, or print a model card.",
    "verify": "Check a bundle's files and recompute its golden inputs on this machine.",
    "evaluate": "Score labelled recordings or stays with the official metrics.",
    "recalibrate": "Make a bundle with calibration and thresholds of your own patients.",
    "monitor": "Compare two exports: inputs, missing values, risks, alarms, findings.",
    "convert": "Write ECG recordings as WFDB, DICOM or Parquet.",
}
MODULES = {"verify": "models", "recalibrate": "evaluate", "monitor": "evaluate"}
"""Modules of the commands that have none of their own."""
KNOWN: dict[str, str] = {
    "train": "Prepare data and train models (needs ibt[train]).",
    "export": "Turn a trained model into a bundle (needs ibt[train]).",
    "reproduce": "Repeat the paper's study: train, judge, draw and report (needs ibt[train,plot]).",
    "serve": "Serve predictions over HTTP (needs ibt[serve]).",
}


CLOSED_PIPE = 141
"""Exit status when the reader of the output has gone, as for a program killed by SIGPIPE: 128 + 13."""


class Failure(click.ClickException):
    """An error that ends the command: one line on standard error, exit status 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"ibt: {self.format_message()}", file=file, err=file is None)


def failure(error: IbtError | ModuleNotFoundError, ctx: click.Context) -> Failure:
    """One line for an ibt error; for a missing package it names the extra to install."""
    if isinstance(error, ModuleNotFoundError):
        error = missing_extra(error, f"'{ctx.command_path} {ctx.invoked_subcommand}'")
    return Failure(one_line(error))


class Interrupted(Failure):
    """Ctrl-C, with the exit status that shells use, because 1 would mean that some inputs were refused."""

    exit_code = 130


class CommandGroup(click.Group):
    """Finds commands here and among the entry points, and shows our errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names of all commands, our own first."""
        return [*OWN, *sorted(_entry_points())]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        """Import and return the command; None if there is none of that name."""
        if cmd_name in OWN:
            command = getattr(import_module(f"ibt_deploy.cli.{MODULES.get(cmd_name, cmd_name)}"), cmd_name)
            return command if isinstance(command, click.Command) else None
        entry = _entry_points().get(cmd_name)
        return None if entry is None else _loaded(entry)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, with our errors shown as one line."""
        try:
            return super().resolve_command(ctx, args)
        except IbtError as error:
            raise Failure(one_line(error)) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Like click's, whatever the standard streams are."""
        _ready("stdout")
        _ready("stderr")
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours, a full disk or an interruption becomes one line."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # now, while a full disk can still become one line and an exit status
        except (IbtError, ModuleNotFoundError) as error:
            raise failure(error, ctx) from error
        except OSError as error:
            _let_go(sys.stdout)
            if error.errno == errno.EPIPE:  # the reader has closed the pipe
                raise SystemExit(CLOSED_PIPE) from None
            place = f"{error.filename}: " if error.filename else ""
            raise Failure(one_line(f"{place}{error.strerror or error}")) from error
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any of them."""
        rows = [
            (name, OWN.get(name) or KNOWN.get(name, "From another package."))
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _loaded(entry: EntryPoint) -> click.Command:
    from ibt_deploy.wings import on_path

    on_path()
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        raise missing_extra(error, f"'ibt {entry.name}'") from error
    if not isinstance(command, click.Command):
        raise Failure(f"'ibt {entry.name}' ({entry.value}) is not a command")
    return command


def _let_go(stream: IO[str]) -> None:
    """Discard unwritable output: the interpreter would retry it at exit and end with status 120."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _ready(name: str) -> None:
    """Make a standard stream usable: a closed one discards output, unencodable characters are escaped."""
    stream = getattr(sys, name)
    if stream is None:
        setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")


F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, readable=False)
"""Any name: a file that cannot be read is refused on its own, and the others are scored."""


def device_option(command: F) -> F:
    """``--device``."""
    return click.option(
        "--device",
        type=click.Choice(DEVICES),
        default="auto",
        show_default=True,
        help="auto uses CUDA where it works; cuda fails where it does not.",
    )(command)


def model_options(command: F) -> F:
    """``--device``, ``--bundle``, ``--precision`` and ``--operating-point``."""
    for option in (
        click.option(
            "--operating-point", metavar="NAME", help="Set of thresholds; 'ibt models' lists the names."
        ),
        click.option(
            "--precision", metavar="fp32|int8", help="Variant of the graph; default: the bundle's own."
        ),
        click.option(
            "--bundle",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            metavar="DIR",
            help="A bundle's directory in place of the one in the package.",
        ),
    ):
        command = option(command)
    return device_option(command)


def echo_refusal(refusal: Refusal) -> None:
    """One line on standard error: where, what, why, and the machine-readable code."""
    click.echo(f"ibt: refused: {refusal.message} [{refusal.code}]", err=True)
