"""``summary.json``: what a run was and what became of its inputs."""

from __future__ import annotations

from typing import Any

from ibt_deploy.batch.job import Job
from ibt_deploy.batch.tally import Tally
from ibt_deploy.predictions import NOTICE


def summary_of(job: Job, tally: Tally, tables: Any = None) -> dict[str, Any]:
    """The summary of a finished run, without what depends on the time it took.

    ``records`` and ``refusals`` add up to ``answers``, and the refusals by code to ``refusals``. An input
    gives one answer; only a file that holds several recordings gives more.
    """
    summary: dict[str, Any] = {
        "task": job.task,
        "inputs": tally.inputs,
        "answers": tally.records + tally.n_refused,
        "records": tally.records,
        "refusals": tally.n_refused,
        "refused": dict(sorted(tally.refused.items(), key=lambda entry: (-entry[1], entry[0]))),
        "warnings": dict(sorted(tally.warnings.items(), key=lambda entry: (-entry[1], entry[0]))),
        "rows": tally.rows,
        "parts": job.n_parts,
        "format": job.format,
        "model": job.model_columns(),
        "inputs_sha256": job.inputs,
        "mapping_sha256": job.mapping or None,
        "versions": {"ibt": job.ibt, "onnxruntime": job.onnxruntime, "layout": job.layout},
    }
    if job.task == "arrhythmia":
        summary["positives"] = dict(tally.positives)
    else:
        summary["alarms"] = {"hours": tally.alarm_hours, "stays": tally.alarm_stays}
    if tables is not None:
        summary["tables"] = tables
    return summary | {"notice": NOTICE}
