"""CPU time of the steps around the graph, one input after another: ``python -m benchmarks.stages [ECG]``.

Every input goes through all steps in turn, so that each step finds the caches as the previous one left them.
Times are thread times, best of ``--repeats``, so that other processes hardly matter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import click

from benchmarks.machine import markdown
from ibt_deploy.bundle import load_bundle
from ibt_deploy.client import multipart, upload_of
from ibt_deploy.device import OpenGraph, keep_small_blocks
from ibt_deploy.predictor import Predictor
from ibt_deploy.preprocess.ecg import EcgPreprocessing, examined, windows
from ibt_deploy.preprocess.quality import signal_quality
from ibt_deploy.preprocess.stay_checks import checked_stay, unit_notices
from ibt_deploy.readers import read
from ibt_deploy.records import Stay
from serving.input.ecg import uploaded_recording
from serving.input.stays import from_text
from serving.input.uploads import uploaded
from serving.score.answers import one
from serving.settings import Settings

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PIECE = 1 << 16


class Clock:
    """The last and the best time of every step, in microseconds."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self.best: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.thread_time_ns()
        yield
        self.note(name, (time.thread_time_ns() - began) / 1e3)

    def note(self, name: str, took: float) -> None:
        self.last[name], self.best[name] = took, min(took, self.best.get(name, took))


class TimedSession:
    """A session whose runs are timed as a separate step."""

    def __init__(self, session: Any, clock: Clock) -> None:
        self._session, self._clock = session, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any) -> Any:
        with self._clock.step("the graph"):
            return self._session.run(*arguments)


@click.command()
@click.argument("ecg", type=click.Path(path_type=Path, exists=True), default=EXAMPLES / "recording.hea")
@click.option("--repeats", default=100, show_default=True)
def stages(ecg: Path, repeats: int) -> None:
    """Print a table of the steps of an ECG and of a stay of 40 hours."""
    keep_small_blocks()
    for task, file in (("arrhythmia", ecg), ("sepsis", EXAMPLES / "stay.psv")):
        clock = Clock()
        bundle = load_bundle(task)
        graph = OpenGraph.of(bundle, device="cpu", variant=None, threads=1)
        predictor = Predictor(bundle, replace(graph, session=TimedSession(graph.session, clock)))
        body, kind = multipart(upload_of(file).files)
        for _ in range(repeats):
            _one_request(file, body, kind, predictor, clock)
        rows = [[name, f"{best:,.0f}"] for name, best in clock.best.items()]
        click.echo(markdown([file.name, "us"], rows) + "\n")


def _one_request(file: Path, body: bytes, kind: str, predictor: Predictor, clock: Clock) -> None:
    settings = Settings()
    with clock.step("read from disk"):
        read(file)
    with clock.step("upload to files"):
        pieces = (body[start : start + PIECE] for start in range(0, len(body), PIECE))
        files = uploaded(kind, pieces, settings.parts)
    item: Any
    with clock.step("files to recording or stay"):
        if predictor.bundle.task == "sepsis":
            (item,) = from_text(*next(iter(files.items())), settings).items
        else:
            (item,) = uploaded_recording(files, settings)
    if isinstance(item, Stay):
        with clock.step("checks of a stay"):
            checked_stay(item)
        with clock.step("of these, units"):
            list(unit_notices(item.values))
    else:
        constants = predictor.bundle.preprocessing
        assert isinstance(constants, EcgPreprocessing)
        with clock.step("12 leads at 200 Hz, quality, rate, axis"):
            standard = examined(item)
        with clock.step("of these, the rules of the beats"):
            signal_quality(standard.signal)
        with clock.step("band-pass, windows"):
            windows(standard, constants)
    with clock.step("recording or stay to prediction"):
        answer = predictor.predict(item)
    with clock.step("prediction to JSON"):
        one([answer])
    asked = (
        "upload to files",
        "files to recording or stay",
        "recording or stay to prediction",
        "prediction to JSON",
    )
    clock.note(
        "upload to JSON, less the graph", sum(map(clock.last.__getitem__, asked)) - clock.last["the graph"]
    )


if __name__ == "__main__":
    stages()
