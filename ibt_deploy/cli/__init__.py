"""The command line: a thin layer over functions that a notebook can also call."""

from __future__ import annotations

import os

import click

from ibt_deploy import __version__
from ibt_deploy.cli.group import CommandGroup

# read once, when numpy is imported; on one ECG, OpenBLAS threads spin for longer than they compute
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    """Print the version of the program, and name and version of each packaged bundle."""
    if not wanted or ctx.resilient_parsing:
        return
    from ibt_deploy.bundle import load_bundle, packaged_bundles

    click.echo(f"ibt, version {__version__}")
    for task in packaged_bundles():
        bundle = load_bundle(task)
        click.echo(f"{task}: {bundle.name} {bundle.version}")
    ctx.exit()


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 all scored, 1 some inputs refused, 2 the command could not run as asked.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version of ibt and of its models.",
)
def main() -> None:
    """Score 12-lead ECGs for 26 arrhythmia classes and ICU stays for hourly sepsis risk.

    Research software, not a medical device.

    \b
    ibt predict record.hea            findings of one ECG
    ibt predict p000001.psv --json    hourly risk of one stay, as JSON
    ibt evaluate my_hospital/         the official metrics on your own patients
    """
