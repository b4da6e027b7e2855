"""Validation scores of trained ECG networks against what scoring with them costs.

python -m benchmarks.sizes study/arrhythmia/runs/ablation-bbm*/seed-0 --threads 2 --plot sizes.png
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from benchmarks.machine import machine_line, markdown
from benchmarks.scoring import BATCHES, ecg_inputs, graph_times
from export.graph import graph_of, quantised
from ibt_deploy.errors import DataError, require
from training.checkpoint import OFFICIAL, load_network, read_curve
from training.fit import BEST
from training.study.results import mega_macs

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
CALIBRATION = 16
"""Random recordings that set the scales of int8; the time does not depend on them."""


@click.command()
@click.argument("runs", type=FOLDER, nargs=-1, required=True, metavar="RUN_DIR...")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option("--seconds", default=3.0, show_default=True, help="Least time to measure each figure for.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Also draw it (PNG, SVG).")
def main(runs: tuple[Path, ...], threads: int, seconds: float, plot: Path | None) -> None:
    """Print parameters, MACs, milliseconds and validation scores of each run's best epoch."""
    if plot is not None:
        require("--plot", "matplotlib")
    rows, points = [], []
    for run in runs:
        trained = load_network(run / BEST)
        if trained.recipe.task != "arrhythmia":
            raise DataError(f"{run}: is not a run on ECGs")
        scores = read_curve(run).best["validation"]
        model = graph_of(trained.network, trained.n_inputs, trained.samples, {})
        shape = trained.n_inputs, trained.samples
        small = quantised(model, [{"signal": ecg_inputs(CALIBRATION, *shape)}])
        inputs = {b: ecg_inputs(b, *shape) for b in BATCHES}
        times = [graph_times(graph.SerializeToString(), inputs, threads, seconds) for graph in (model, small)]
        parameters = sum(p.numel() for p in trained.network.parameters())
        official = next(scores[name] for name in OFFICIAL if name in scores)
        name = run.resolve().parent.name.removeprefix("ablation-")
        rows.append(
            [
                name,
                f"{parameters / 1e6:.2f}",
                f"{mega_macs(trained):.0f}",
                *(f"{row[i]:.2f}" for row in times for i in range(len(BATCHES))),
                f"{scores['auroc']:.3f}",
                f"{scores['auprc']:.3f}",
                f"{official:.3f}",
            ]
        )
        points.append((name, times[1][0], scores["auroc"]))
    measured = [f"{engine}, batch {b}, ms" for engine in ("fp32", "int8") for b in BATCHES]
    header = ["run", "million parameters", "million MACs", *measured, "AUROC", "AUPRC", "challenge metric"]
    click.echo(machine_line(threads) + "\n")
    click.echo(markdown(header, rows))
    if plot is not None:
        draw(points, plot)


def draw(points: list[tuple[str, float, float]], path: Path) -> None:
    """Plot validation AUROC over the milliseconds of int8 at batch 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, ms, auroc in points:
        axes.plot(ms, auroc, "o", color="tab:blue")
        axes.annotate(name, (ms, auroc), textcoords="offset points", xytext=(6, -3))
    axes.set(xlabel="ms a recording (int8, one at a time)", ylabel="validation AUROC")
    axes.set_xlim(0, 1.25 * float(np.max([ms for _, ms, _ in points])))
    axes.grid(visible=True, alpha=0.3)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written: {error}") from error


if __name__ == "__main__":
    main()
