"""Which inputs carry over to another hospital: boosted trees grown on one hospital, scored on the other.

    python -m benchmarks.hospitals cache/sepsis --external cache/eicu

Trees stand in for networks because they are grown in minutes. The test part is not touched. The external set
needs no labels: its alarms and its mean risk are shown, and nothing is tuned on it.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier

from ibt_deploy.metrics.ranking import auroc
from ibt_deploy.metrics.sepsis import utility_sweep
from ibt_deploy.preprocess.stay import featurise
from ibt_deploy.vocabulary import N_TIME_VARYING as N
from training.data.cache import open_cache
from training.ensemble import summaries
from training.recipe import find_recipe
from training.tasks import open_source
from training.tasks.stay import StaySource, concatenated_spans, read_rows

Ints = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

SINCE = list(range(2 * N, 3 * N))
OBSERVED = list(range(N, 2 * N))
ADMINISTRATIVE = list(range(3 * N + 2, 3 * N + 7))
"""Unit1, Unit2, unit unknown, HospAdmTime, ICULOS."""


@click.command()
@click.argument("cache", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--trees", default=200, show_default=True, help="Trees of each model.")
@click.option("--rate", default=0.06, show_default=True, help="Learning rate.")
@click.option("--every", default=1, show_default=True, help="Use every n-th training stay.")
@click.option(
    "--external",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Another prepared data set, labelled or not.",
)
def main(cache: Path, trees: int, rate: float, every: int, external: Path | None) -> None:
    source = open_source(find_recipe("sepsis-teacher", {}), cache, None)
    assert isinstance(source, StaySource)
    columns = tree_inputs(source.features, source.offsets)
    outside = None if external is None else external_inputs(source, external)
    counts = list(range(columns.shape[1] - N, columns.shape[1]))
    everything = np.arange(columns.shape[1])
    inputs = {
        "all": everything,
        "without what was measured and since when": np.setdiff1d(everything, OBSERVED + SINCE + counts),
        "without ICULOS, HospAdmTime, unit": np.setdiff1d(everything, ADMINISTRATIVE),
        "without those and time since": np.setdiff1d(everything, ADMINISTRATIVE + SINCE),
    }
    hospital = source.cache.index["hospital"].to_numpy()
    train, validation = source.items("train"), source.items("validation")
    for name, chosen in inputs.items():
        for home, away in (("A", "B"), ("B", "A")):
            rows = concatenated_spans(source.offsets, train[hospital[train] == home][::every])
            model = HistGradientBoostingClassifier(
                learning_rate=rate, max_iter=trees, max_leaf_nodes=31, min_samples_leaf=300,
                l2_regularization=1.0, early_stopping=False, random_state=0,
            )  # fmt: skip
            model.fit(columns[rows][:, chosen], source.official_labels[rows])
            threshold = None
            for place in (home, away):
                stays = validation[hospital[validation] == place]
                spans = concatenated_spans(source.offsets, stays)
                risk = model.predict_proba(columns[spans][:, chosen])[:, 1]
                labels = source.official_labels[spans]
                lengths = np.diff(source.offsets)[stays]
                sweep = utility_sweep(labels, risk, np.concatenate(([0], np.cumsum(lengths))))
                if threshold is None:
                    threshold = float(sweep.thresholds[int(np.argmax(sweep.utilities))])
                at = int(np.argmin(np.abs(sweep.thresholds - threshold)))
                click.echo(
                    f"{name}: {home} on {place}: utility {sweep.utilities[at]:.3f}"
                    f"  AUROC {auroc(labels, risk):.3f}"
                    f"  alarms in {np.mean(risk >= threshold):.1%} of hours  mean risk {risk.mean():.4f}"
                    f"  positive {labels.mean():.4f}"
                )
            if outside is not None:
                risk = model.predict_proba(outside[:, chosen])[:, 1]
                click.echo(
                    f"{name}: {home} on the external set:"
                    f"  alarms in {np.mean(risk >= threshold):.1%} of hours  mean risk {risk.mean():.4f}"
                )


def tree_inputs(features: Float32s, offsets: Ints) -> Float32s:
    """Features of every hour and their summaries."""
    return np.concatenate((features, summaries(features, offsets)), axis=1)


def external_inputs(source: StaySource, folder: Path) -> Float32s:
    """The same columns for every hour of another data set."""
    values, _, offsets = read_rows(open_cache(folder))
    return tree_inputs(featurise(values, offsets, source.constants), offsets)


if __name__ == "__main__":
    main()
