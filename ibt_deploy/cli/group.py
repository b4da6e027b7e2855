"""The command group: commands are imported when they are called, so that ``ibt predict`` starts fast.

Commands of other packages (``ibt train``, ``ibt export``) are entry points of the group ``ibt.commands``.
Looking them up takes 50 ms, so it is done only for a command that is not our own, and for the list.
"""

from __future__ import annotations

from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

import click

from ibt_deploy.errors import IbtError
from ibt_deploy.extras import missing_extra

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "ibt.commands"
OWN: dict[str, str] = {
    "predict": "Score ECG recordings and ICU stays.",
    "inspect": "Show what was read and everything preprocessing would change.",
    "models": "List the models that are installed, or print a model card.",
    "verify": "Check a bundle's files and recompute its golden inputs on this machine.",
    "evaluate": "Score labelled recordings or stays with the official metrics.",
}
KNOWN: dict[str, str] = {
    "train": "Prepare data and train models (needs ibt[train]).",
    "export": "Turn a trained model into a bundle (needs ibt[train]).",
    "serve": "Serve predictions over HTTP (needs ibt[serve]).",
}


class Failure(click.ClickException):
    """An error that ends the command: one line on standard error, exit status 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"ibt: {self.format_message()}", file=file, err=file is None)


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
        """The command, imported now; None where there is none of that name."""
        if cmd_name in OWN:
            command = getattr(import_module(f"ibt_deploy.cli.{cmd_name}"), cmd_name)
            return command if isinstance(command, click.Command) else None
        entry = _entry_points().get(cmd_name)
        return None if entry is None else _loaded(entry)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with our errors shown as one line."""
        try:
            return super().resolve_command(ctx, args)
        except IbtError as error:
            raise Failure(_line(error)) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours becomes one line."""
        try:
            return super().invoke(ctx)
        except IbtError as error:
            raise Failure(_line(error)) from error

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
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        raise missing_extra(error, f"'ibt {entry.name}'") from error
    if not isinstance(command, click.Command):
        raise Failure(f"'ibt {entry.name}' ({entry.value}) is not a command")
    return command


def _line(error: IbtError) -> str:
    return " ".join(str(error).split())
