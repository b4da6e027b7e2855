"""Measure scoring and training, save the ratios of a release, and compare those of two releases."""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmarks.machine import EAGER, RESULTS, keep, machine_line, markdown
from ibt_deploy import __version__

MARGIN = 0.25
"""Share by which a ratio may fall before it counts as a regression: virtual machines vary that much."""

PASS = "one pass"


@click.group(invoke_without_command=True)
@click.option("--threads", default=0, help="CPU threads; 0 for all cores.")
@click.option("--seconds", default=3.0, show_default=True, help="Least time to measure each figure for.")
@click.option("--scoring/--no-scoring", default=True, help="Whether to time scoring.")
@click.option("--training/--no-training", default=True, help="Whether to time training.")
@click.option("--save", is_flag=True, help="Write the ratios to benchmarks/results/VERSION.json.")
@click.pass_context
def benchmarks(
    ctx: click.Context, threads: int, seconds: float, scoring: bool, training: bool, save: bool
) -> None:
    """Measure scoring (PyTorch, ONNX Runtime, torch_ecg, pandas row by row) and training, in one run."""
    if ctx.invoked_subcommand is not None:
        return
    import torch

    from benchmarks.scoring import row_by_row_times, scoring_table, scoring_times
    from benchmarks.training import training_rates, training_table

    torch.set_num_threads(threads or torch.get_num_threads())
    machine = machine_line(torch.get_num_threads())
    click.echo(machine + "\n")
    ratios: dict[str, float] = {}
    if scoring:
        times = scoring_times(torch.get_num_threads(), seconds)
        click.echo(scoring_table(times) + "\n")
        whole = row_by_row_times(torch.get_num_threads(), seconds)
        click.echo(markdown(["the whole way, ms", "a stay-hour"], _rows(whole)) + "\n")
        ratios |= _speeds(times) | _speeds(whole)
    if training:
        rates = training_rates(seconds)
        click.echo(training_table(rates))
        ratios |= _training_ratios(rates)
    if save:
        click.echo(f"\n{keep(__version__, machine, seconds, ratios)}", err=True)


def _rows(times: dict[str, dict[str, float]]) -> list[list[str]]:
    return [[name, *(f"{ms:.3f}" for ms in row.values())] for name, row in times.items()]


def _speeds(times: dict[str, dict[str, float]]) -> dict[str, float]:
    """Speed of each way relative to the reference of its kind: the packaged network in eager, or one pass.

    The kind is the text before the first comma of a name. The paper's student and torch_ecg are different
    networks, on the same ten seconds.
    """
    references = {name.partition(", ")[0]: name for name in times if name.partition(", ")[2] in (EAGER, PASS)}
    return {
        f"{name}, {batch}, times as fast as {references[name.partition(', ')[0]].partition(', ')[2]}": (
            times[references[name.partition(", ")[0]]][batch] / ms
        )
        for name, row in times.items()
        if name not in references.values()
        for batch, ms in row.items()
    }


def _training_ratios(rates: dict[str, dict[str, float | None]]) -> dict[str, float]:
    """Throughput of each method as a multiple of the plain transformer's in the same format."""
    plain = rates["transformer"]
    return {
        f"training {method}, {kind}, times as fast as transformer": rate / reference
        for method, row in rates.items()
        for kind, rate in row.items()
        if method != "transformer" and rate is not None and (reference := plain[kind]) is not None
    }


@benchmarks.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--margin", default=MARGIN, show_default=True, help="Share by which a ratio may fall.")
@click.pass_context
def compare(ctx: click.Context, before: str, after: str, margin: float) -> None:
    """Compare two releases (0.3.0, or a file); exit status 1 where B fell by more than the margin."""
    old, new = (_saved(which) for which in (before, after))
    rows, slower = [], 0
    for name in dict.fromkeys((*old, *new)):
        a, b = old.get(name), new.get(name)
        if a is None or b is None:
            said = "not in A" if a is None else "not in B"
        elif b < a * (1 - margin):
            said, slower = f"{b / a - 1:+.0%} slower", slower + 1
        else:
            said = f"{b / a - 1:+.0%}"
        rows.append([name, *("" if ratio is None else f"{ratio:g}" for ratio in (a, b)), said])
    click.echo(markdown(["ratio", "A", "B", "change"], rows))
    click.echo(f"\n{slower} of {len(rows)} ratios fell by more than {margin:.0%}")
    ctx.exit(1 if slower else 0)


def _saved(which: str) -> dict[str, float]:
    path = Path(which) if which.endswith(".json") else RESULTS / f"{which}.json"
    try:
        ratios: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["ratios"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise click.UsageError(f"{path}: no saved results ({error})") from error
    return ratios


if __name__ == "__main__":
    benchmarks()
