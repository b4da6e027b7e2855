"""Validation scores of trained ECG networks against what scoring with them costs.

    python -m benchmarks.sizes study/arrhythmia/runs/ablation-bbm*/seed-0 --threads 2 --plot sizes.png

The scores are those that training logged at the epoch it kept.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.machine import FOLDER, machine_line, markdown
from benchmarks.scoring import BATCHES, ecg_inputs, graph_times
from export.graph import graph_of, quantised
from ibt_deploy.errors import DataError, require
from training.checkpoint import TrainedNetwork, load_network, read_curve, refuse_pretrained, save_figure
from training.fit import BEST
from training.study.results import mega_macs

MEASURES = {"auroc": "AUROC", "auprc": "AUPRC", "challenge": "challenge metric"}
CALIBRATION = 16
"""Random recordings that set the scales of int8; the time does not depend on them."""


@click.command()
@click.argument("runs", type=FOLDER, nargs=-1, required=True, metavar="RUN_DIR...")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="CPU threads.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=3.0,
    show_default=True,
    help="Least time to measure each figure for.",
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Also draw it (PNG, SVG).")
def main(runs: tuple[Path, ...], threads: int, seconds: float, plot: Path | None) -> None:
    """Print parameters, MACs, milliseconds and validation scores of each run's best epoch."""
    if plot is not None:
        require("--plot", "matplotlib")
    rows, points = [], []
    for name, trained, scores in [_read(run) for run in runs]:
        shape = trained.n_inputs, trained.samples
        model = graph_of(trained.network, *shape, {})
        small = quantised(model, [{"signal": ecg_inputs(CALIBRATION, *shape)}])
        inputs = {b: ecg_inputs(b, *shape) for b in BATCHES}
        times = [graph_times(graph.SerializeToString(), inputs, threads, seconds) for graph in (model, small)]
        parameters = sum(p.numel() for p in trained.network.parameters())
        rows.append(
            [
                name,
                f"{parameters / 1e6:.2f}",
                f"{mega_macs(trained):.0f}",
                *(f"{ms:.2f}" for row in times for ms in row),
                *(f"{scores[measure]:.3f}" for measure in MEASURES),
            ]
        )
        points.append((name, times[1][0], scores["auroc"]))
    measured = [f"{engine}, batch {b}, ms" for engine in ("fp32", "int8") for b in BATCHES]
    header = ["run", "million parameters", "million MACs", *measured, *MEASURES.values()]
    click.echo(machine_line(threads) + "\n")
    click.echo(markdown(header, rows))
    if plot is not None:
        draw(points, plot)


def _read(run: Path) -> tuple[str, TrainedNetwork, dict[str, float]]:
    """Name of a run, its network and its validation scores; DataError if it has none."""
    trained = load_network(run / BEST)
    if trained.recipe.task != "arrhythmia":
        raise DataError(f"{run}: is not a run on ECGs")
    refuse_pretrained(run, trained)
    scores = read_curve(run).best["validation"]
    if not MEASURES.keys() <= scores.keys():
        raise DataError(f"{run}: has no validation scores; it learnt from the validation part as well")
    folder = run.resolve()
    name = f"{folder.parent.name}, {folder.name}" if folder.name.startswith("seed-") else folder.name
    return name.removeprefix("ablation-"), trained, scores


def draw(points: list[tuple[str, float, float]], path: Path) -> None:
    """Plot validation AUROC over the milliseconds of int8 at batch 1; DataError if it cannot be saved."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, ms, auroc in points:
        axes.plot(ms, auroc, "o", color="tab:blue")
        axes.annotate(name, (ms, auroc), textcoords="offset points", xytext=(6, -3))
    axes.set(xlabel="ms a recording (int8, one at a time)", ylabel="validation AUROC")
    axes.set_xlim(0, 1.25 * max(ms for _, ms, _ in points))
    axes.grid(visible=True, alpha=0.3)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
