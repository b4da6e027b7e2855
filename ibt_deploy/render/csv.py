"""Predictions as CSV: one line for every class of a recording, or for every hour of a stay."""

from __future__ import annotations

import csv
from typing import TextIO

from ibt_deploy.predictions import DECIMALS, ArrhythmiaPrediction, Prediction, WindowShare

_MODEL = ("bundle", "version", "sha256", "variant", "operating_point", "device")
HEADERS = {
    "arrhythmia": (
        *("record", "code", "abbreviation", "name", "probability", "threshold", "positive", "evaluable"),
        *("status", "windows_reached", "windows", "highest", "highest_at"),
        *_MODEL,
    ),
    "sepsis": ("record", "hour", "risk", "threshold", "alarm", "inserted", "missing", *_MODEL),
}


class CsvWriter:
    """Writes predictions of one task to a stream, the header first."""

    def __init__(self, stream: TextIO, task: str) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")
        self._writer.writerow(HEADERS[task])

    def write(self, prediction: Prediction) -> None:
        """Write every class, or every hour, of one prediction."""
        m = prediction.model
        model = (m.name, m.version, m.sha256, m.variant, m.operating_point, m.device)
        for row in _rows(prediction):
            self._writer.writerow((prediction.record, *row, *model))


def _windows(share: WindowShare) -> tuple[object, ...]:
    return share.reached, share.of, round(share.highest, DECIMALS), round(share.highest_at, 3)


def _rows(prediction: Prediction) -> list[tuple[object, ...]]:
    if isinstance(prediction, ArrhythmiaPrediction):
        return [
            (
                *(f.code, f.abbreviation, f.name, round(f.probability, DECIMALS)),
                *(round(f.threshold, DECIMALS), int(f.positive), int(f.evaluable)),
                f.status,
                *(_windows(f.windows) if f.windows else ("", "", "", "")),
            )
            for f in prediction.findings
        ]
    threshold = round(prediction.threshold, DECIMALS)
    return [
        (int(hour), round(float(risk), DECIMALS), threshold, int(alarm), int(inserted), " ".join(missing))
        for hour, risk, alarm, inserted, missing in zip(
            *(prediction.hours, prediction.risk, prediction.alarms, prediction.inserted, prediction.missing),
            strict=True,
        )
    ]
