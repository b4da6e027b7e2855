"""Write ``docs/cli.md`` from ``--help``; ``make docs`` runs it, and a test compares.

>>> python docs/cli_page.py  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from ibt_deploy.cli import main

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 100
HEAD = """# Command line

Every command and option, as `--help` prints them. This page is generated: `make docs` writes it.
"""


def cli_page() -> str:
    """The page as Markdown.

    Raises
    ------
    MissingExtra
        An extra is not installed, whose command the page describes.
    """
    settings = {**main.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(main, info_name="ibt", **settings)
    return HEAD + "".join(_sections(main, context, 2))


def _sections(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    heading = "#" * min(level, 4)
    yield f"\n{heading} `{context.command_path}`\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                inner = click.Context(
                    below, info_name=name, parent=context, terminal_width=WIDTH, max_content_width=WIDTH
                )
                yield from _sections(below, inner, level + 1)


if __name__ == "__main__":
    PAGE.write_text(cli_page(), encoding="utf-8")
