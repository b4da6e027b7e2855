"""The tables of a run: their columns, and rows made of predictions and refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ibt_deploy.batch.job import Job
from ibt_deploy.bundle import Bundle
from ibt_deploy.extras import missing_extra
from ibt_deploy.predictions import NOTICE, ArrhythmiaPrediction, Prediction, Refusal, SepsisPrediction
from ibt_deploy.printable import printable

if TYPE_CHECKING:
    import pyarrow as pa

LIST_SEPARATOR = "; "


def short_name(abbreviation: str) -> str:
    """The shorter of the names of a class: ``LBBB`` of ``CLBBB|LBBB``; the first of two of equal length."""
    return min(abbreviation.split("|"), key=len)


def arrow() -> Any:
    """pyarrow; MissingExtra where it is not installed."""
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise missing_extra(error, "ibt batch --format parquet or csv") from error
    return pyarrow


def predictions_table(predictions: Sequence[Prediction], job: Job, bundle: Bundle) -> pa.Table:
    """The rows of ``predictions/``: one for each recording, or for each hour of each stay."""
    if job.task == "arrhythmia":
        return _findings([p for p in predictions if isinstance(p, ArrhythmiaPrediction)], job, bundle)
    return _risks([p for p in predictions if isinstance(p, SepsisPrediction)], job)


def refusals_table(refusals: Sequence[Refusal], job: Job) -> pa.Table:
    """The rows of ``refused/``."""
    pa = arrow()
    columns = {
        "source": [printable(r.source) for r in refusals],
        "code": [r.code for r in refusals],
        "message": [printable(r.message) for r in refusals],
    }
    schema = pa.schema([(name, pa.string()) for name in columns], metadata=_metadata(job))
    return pa.table(columns, schema=schema)


def _findings(predictions: Sequence[ArrhythmiaPrediction], job: Job, bundle: Bundle) -> pa.Table:
    pa = arrow()
    classes = bundle.classes
    names = [short_name(c.abbreviation) for c in classes]
    shape = (len(predictions), len(classes))
    probabilities = np.array([p.probabilities for p in predictions], dtype=np.float32).reshape(shape)
    positive = np.array([p.positive for p in predictions], dtype=bool).reshape(shape)
    words = pa.list_(pa.string())
    columns: list[tuple[str, Any, Any]] = [
        ("record", pa.string(), [printable(p.record) for p in predictions]),
        ("source", pa.string(), [printable(p.source) for p in predictions]),
        ("findings", words, [[n for n, y in zip(names, row, strict=True) if y] for row in positive]),
        *((f"p_{name}", pa.float32(), p) for name, p in zip(names, probabilities.T, strict=True)),
        *((f"pos_{name}", pa.bool_(), y) for name, y in zip(names, positive.T, strict=True)),
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
    return _table(columns, job, {"ibt.classes": json.dumps(described)})


def _risks(predictions: Sequence[SepsisPrediction], job: Job) -> pa.Table:
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
    return _table(columns, job, {})


def _table(columns: list[tuple[str, Any, Any]], job: Job, extra: dict[str, str]) -> pa.Table:
    pa = arrow()
    schema = pa.schema([(name, kind) for name, kind, _ in columns], metadata=_metadata(job) | extra)
    arrays = [
        (values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)).cast(kind)
        for _, kind, values in columns
    ]
    return pa.table(arrays, schema=schema)


def _metadata(job: Job) -> dict[str, str]:
    model = {f"ibt.{name}": value for name, value in job.model_columns().items()}
    return {"ibt.task": job.task, "ibt.notice": NOTICE, "ibt.ibt": job.ibt} | model


def flattened(table: pa.Table) -> pa.Table:
    """The table for CSV, which knows no lists: their words in one text."""
    pa = arrow()
    columns = [
        pa.array([LIST_SEPARATOR.join(words) for words in column.to_pylist()], type=pa.string())
        if pa.types.is_list(column.type)
        else column
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)
