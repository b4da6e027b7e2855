"""Options and output that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ibt_deploy.device import DEVICES
from ibt_deploy.predictions import Refusal

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, readable=False)
"""A name as given: a file that cannot be read is refused alone, and the others are scored."""


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
