"""Print scoring times and training throughput as Markdown tables."""

from __future__ import annotations

import click

from benchmarks.machine import machine_line
from benchmarks.scoring import scoring_table
from benchmarks.training import training_table


@click.command()
@click.option("--threads", default=0, help="CPU threads; 0 for all cores.")
@click.option("--seconds", default=3.0, show_default=True, help="Least time to measure each figure for.")
@click.option("--scoring/--no-scoring", default=True, help="Whether to time scoring.")
@click.option("--training/--no-training", default=True, help="Whether to time training.")
def benchmarks(threads: int, seconds: float, scoring: bool, training: bool) -> None:
    """Measure scoring (PyTorch eager, ONNX Runtime fp32 and int8) and training, in one run."""
    import torch

    torch.set_num_threads(threads or torch.get_num_threads())
    click.echo(machine_line(torch.get_num_threads()) + "\n")
    if scoring:
        click.echo(scoring_table(torch.get_num_threads(), seconds) + "\n")
    if training:
        click.echo(training_table(seconds))


if __name__ == "__main__":
    benchmarks()
