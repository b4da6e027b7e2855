"""Tables, counts and report sections of a batch run, for each task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from ibt_deploy.batch.output import arrow, table_of
from ibt_deploy.batch.plan import Job
from ibt_deploy.batch.tally import Tally, histogram, percent
from ibt_deploy.bundle import Bundle, BundleClass
from ibt_deploy.errors import printable
from ibt_deploy.types import Bools

if TYPE_CHECKING:
    import pyarrow as pa

PROBABILITY_EDGES: tuple[float, ...] = tuple(i / 20 for i in range(21))
RISK_EDGES: tuple[float, ...] = (
    *(0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1),
)


class Answers(Protocol):
    """How the answers of a task are tabulated, counted and reported; ``title`` heads the report."""

    title: ClassVar[str]

    @staticmethod
    def table(predictions: Sequence[Any], job: Job, bundle: Bundle, /) -> pa.Table:
        """Rows of ``predictions/``."""

    @staticmethod
    def count(tally: Tally, predictions: Sequence[Any], /) -> None:
        """Add predictions, at least one, to the counts."""

    @staticmethod
    def totals(tally: Tally, /) -> dict[str, Any]:
        """Totals for ``summary.json``."""

    @staticmethod
    def figures(tally: Tally, /) -> list[tuple[str, str]]:
        """Headline figures of the report, each with its label."""

    @staticmethod
    def section(summary: dict[str, Any], tally: Tally, classes: Sequence[BundleClass], /) -> str:
        """The report section on the answers, as HTML."""


class Findings:
    """Findings of recordings."""

    title: ClassVar[str] = "Findings of 12-lead ECGs"

    @staticmethod
    def table(predictions: Sequence[Any], job: Job, bundle: Bundle) -> pa.Table:
        """One row per recording."""
        pa = arrow()
        classes = bundle.classes
        names = [c.short for c in classes]
        shape = (len(predictions), len(classes))
        probabilities = np.array([p.probabilities for p in predictions], dtype=np.float32).reshape(shape)
        positive = np.array([p.positive for p in predictions], dtype=bool).reshape(shape)
        alternative = np.array([p.alternative for p in predictions], dtype=bool).reshape(shape)
        share, highest, highest_at = (np.empty(shape, dtype=np.float32) for _ in range(3))
        for row, p in enumerate(predictions):
            share[row] = (p.windows >= p.thresholds).mean(axis=0)
            highest[row] = p.windows.max(axis=0)
            highest_at[row] = p.window_starts[p.windows.argmax(axis=0)]
        words = pa.list_(pa.string())

        def named(flags: Bools) -> list[list[str]]:
            return [[n for n, y in zip(names, row, strict=True) if y] for row in flags]

        columns: list[tuple[str, Any, Any]] = [
            ("record", pa.string(), [printable(p.record) for p in predictions]),
            ("source", pa.string(), [printable(p.source) for p in predictions]),
            ("findings", words, named(positive)),
            ("alternatives", words, named(alternative)),
            *((f"p_{name}", pa.float32(), p) for name, p in zip(names, probabilities.T, strict=True)),
            *((f"pos_{name}", pa.bool_(), y) for name, y in zip(names, positive.T, strict=True)),
            *((f"share_{name}", pa.float32(), s) for name, s in zip(names, share.T, strict=True)),
            *((f"max_{name}", pa.float32(), p) for name, p in zip(names, highest.T, strict=True)),
            *((f"max_at_{name}", pa.float32(), s) for name, s in zip(names, highest_at.T, strict=True)),
            ("windows", pa.int32(), [len(p.windows) for p in predictions]),
            ("duration", pa.float64(), [round(p.duration, 3) for p in predictions]),
            ("sampling_rate", pa.float64(), [p.sampling_rate for p in predictions]),
            ("format", pa.string(), [printable(p.format) for p in predictions]),
            ("warnings", words, [[w.code for w in p.warnings] for p in predictions]),
            ("changes", words, [[printable(c) for c in p.changes] for p in predictions]),
        ]
        thresholds = bundle.operating_point(job.operating_point).thresholds.tolist()
        described = [
            {"column": name, "code": c.code, "name": c.name, "evaluable": c.evaluable, "threshold": threshold}
            for name, c, threshold in zip(names, classes, thresholds, strict=True)
        ]
        return table_of(columns, job, {"ibt.classes": json.dumps(described)})

    @staticmethod
    def count(tally: Tally, predictions: Sequence[Any]) -> None:
        """Count each finding, and add its probability to a histogram."""
        tally.rows += len(predictions)
        positive = np.array([p.positive for p in predictions]).sum(axis=0)
        probabilities = np.array([p.probabilities for p in predictions])
        for c, column, count in zip(predictions[0].classes, probabilities.T, positive.tolist(), strict=True):
            tally.positives[c.short] += count
            tally.spread(c.short, column, PROBABILITY_EDGES)

    @staticmethod
    def totals(tally: Tally) -> dict[str, Any]:
        """Recordings with each finding."""
        return {"positives": dict(tally.positives)}

    @staticmethod
    def figures(tally: Tally) -> list[tuple[str, str]]:  # noqa: ARG004
        """No figures beyond those of every task."""
        return []

    @staticmethod
    def section(summary: dict[str, Any], tally: Tally, classes: Sequence[BundleClass]) -> str:  # noqa: ARG004
        """One row per class: number of recordings with it, and distribution of its probability."""
        rows = []
        for found in classes:
            name = found.short
            count = tally.positives.get(name, 0)
            share = count / tally.records if tally.records else 0.0
            status = "" if found.evaluable else "<em>not evaluable</em>"
            counts = tally.histograms.get(name, [])
            label = f"Probabilities of {found.name}"
            picture = histogram(counts, label, PROBABILITY_EDGES, size=(240, 64), small=True)
            rows.append(
                f"<tr><th scope=row><b>{escape(name)}</b> {escape(found.name)} {status}"
                f"</th><td class=n>{count:,}</td><td class=n>{percent(count, tally.records)}"
                f'<i class=bar style="--share:{share:.4f}"></i></td><td>{picture}</td></tr>'
            )
        return (
            "<section><h2>Findings</h2><p>Recordings in which each class reaches its threshold, and how its "
            "calibrated probability is spread from 0 to 1 (logarithmic heights). A class that is not "
            "evaluable is never reported as positive: training had too few of it.</p>"
            "<table class=findings><thead><tr><th>class<th class=n>positive<th class=n>share"
            "<th>probability</tr></thead><tbody>" + "".join(rows) + "</tbody></table></section>"
        )


class Risks:
    """Hourly risks of stays."""

    title: ClassVar[str] = "Sepsis risk of ICU stays"

    @staticmethod
    def table(predictions: Sequence[Any], job: Job, bundle: Bundle) -> pa.Table:  # noqa: ARG004
        """One row per hour of each stay."""
        pa = arrow()
        lengths = [len(p.risk) for p in predictions]
        of_stay = pa.array(np.repeat(np.arange(len(predictions)), lengths))

        def each(values: list[Any], kind: Any) -> Any:
            return pa.array(values, type=kind).take(of_stay)

        def joined(arrays: list[Any], dtype: Any) -> Any:
            return np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype)

        words = pa.list_(pa.string())
        columns: list[tuple[str, Any, Any]] = [
            ("record", pa.string(), each([printable(p.record) for p in predictions], pa.string())),
            ("hour", pa.int32(), joined([p.hours for p in predictions], np.int64)),
            ("risk", pa.float32(), joined([p.risk for p in predictions], np.float64)),
            ("threshold", pa.float32(), each([p.threshold for p in predictions], pa.float32())),
            ("alarm", pa.bool_(), joined([p.alarms for p in predictions], bool)),
            ("inserted", pa.bool_(), joined([p.inserted for p in predictions], bool)),
            ("missing", pa.int16(), joined([np.isnan(p.values).sum(axis=1) for p in predictions], np.int64)),
            ("source", pa.string(), each([printable(p.source) for p in predictions], pa.string())),
            ("warnings", words, each([[w.code for w in p.warnings] for p in predictions], words)),
        ]
        return table_of(columns, job)

    @staticmethod
    def count(tally: Tally, predictions: Sequence[Any]) -> None:
        """Count hours and alarms, and add the risks to histograms."""
        for stay in predictions:
            tally.rows += len(stay.risk)
            tally.alarm_hours += int(stay.alarms.sum())
            tally.alarm_stays += bool(stay.alarms.any())
            tally.spread("risk", stay.risk, RISK_EDGES)
            tally.spread("highest risk", stay.risk.max(keepdims=True), RISK_EDGES)

    @staticmethod
    def totals(tally: Tally) -> dict[str, Any]:
        """Hours and stays with an alarm."""
        return {"alarms": {"hours": tally.alarm_hours, "stays": tally.alarm_stays}}

    @staticmethod
    def figures(tally: Tally) -> list[tuple[str, str]]:
        """Hours, and the share of stays with an alarm."""
        share = percent(tally.alarm_stays, tally.records)
        return [(f"{tally.rows:,}", "hours"), (share, "stays with an alarm")]

    @staticmethod
    def section(summary: dict[str, Any], tally: Tally, classes: Sequence[BundleClass]) -> str:  # noqa: ARG004
        """Distributions of hourly risks and of the highest risk per stay."""
        pictures = []
        for name, heading, noun in (
            ("risk", "Risk of every hour", "hours"),
            ("highest risk", "Highest risk of every stay", "stays"),
        ):
            counts = tally.histograms.get(name, [])
            picture = histogram(counts, heading, RISK_EDGES, size=(640, 180), small=False)
            pictures.append(
                f"<figure><figcaption>{heading} ({sum(counts):,} {noun})</figcaption>{picture}</figure>"
            )
        share, point = percent(tally.alarm_hours, tally.rows), summary["model"]["operating_point"]
        alarms = (
            f"<p>{tally.alarm_hours:,} of {tally.rows:,} hours ({share}) reach the threshold of the "
            f"operating point <b>{escape(point)}</b>, in {tally.alarm_stays:,} of {tally.records:,} "
            "stays.</p>"
        )
        return f"<section><h2>Risks</h2>{alarms}{''.join(pictures)}</section>"
