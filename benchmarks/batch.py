"""``ibt batch`` against the model alone, on the same cores in the same run: ``python -m benchmarks.batch``.

The model alone is the packaged graph on inputs that are ready in memory, in as many processes as there are
workers, each on one thread; it is timed before and after the batch run, and the mean is used.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.machine import markdown
from ibt_deploy.device import usable_cpus

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SAMPLE = 96
PERIOD = 0.5
"""Seconds between two memory samples of a run."""


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), default=DATA, show_default=True)
@click.option("--workers", default=0, help="0 for all usable CPUs.")
@click.option("--copies", default=20_000, show_default=True, help="Copies of recordings under other names.")
@click.option("--seconds", default=20.0, show_default=True, help="Time for each timing of the model alone.")
@click.option("--ecg/--no-ecg", default=True, help="Whether to score recordings.")
@click.option("--stays/--no-stays", default=True, help="Whether to score stays.")
@click.option("--quick", is_flag=True, help="400 copies, 3,000 stays, 5 seconds.")
def benchmark(
    data: Path, workers: int, copies: int, seconds: float, ecg: bool, stays: bool, quick: bool
) -> None:
    """Print the rate of ``ibt batch`` beside that of the model alone, and its peak memory."""
    workers = workers or usable_cpus()
    if quick:
        copies, seconds = 400, 5.0
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="ibt-batch-") as name:
        folder = Path(name)
        if ecg:
            rows.append(_recordings(data / "ecg", folder, copies, workers, seconds, quick))
        if stays:
            rows += _stays(data / "p19" / "p19.parquet", folder, workers, seconds, quick)
    header = ["export", "inputs", "ibt batch", "model alone", "share", "peak memory, MB (halves)", "status"]
    click.echo(f"{workers} workers\n\n" + markdown(header, rows))


def _recordings(
    source: Path, folder: Path, copies: int, workers: int, seconds: float, quick: bool
) -> list[str]:
    headers = sorted(source.rglob("*.hea"))
    linked_copies(headers[:: max(1, len(headers) // 500)], folder / "copies", copies)
    sources = [str(folder / "copies")] if quick else [str(source), str(folder / "copies")]
    step = max(1, len(headers) // SAMPLE)
    return _row(
        "ECGs", sources, folder, workers, lambda: _alone(_ecg_rate, headers[::step], workers, seconds)
    )


def _stays(parquet: Path, folder: Path, workers: int, seconds: float, quick: bool) -> list[list[str]]:
    if quick:
        import duckdb

        part = folder / "part.parquet"
        duckdb.execute(
            f"COPY (SELECT * FROM read_parquet('{parquet}') WHERE hash(patient_id) % 12 = 0) TO '{part}'"
        )
        parquet = part

    def alone() -> float:
        return _alone(_stay_rate, [parquet], workers, seconds)

    rows = [_row("stays, Parquet", [str(parquet)], folder, workers, alone, keep=folder / "parquet")]
    for times in (1, 2):
        table, mapping = renamed_csv(parquet, folder, times)
        name = f"stays, shuffled CSV with other names and units{', doubled' * (times - 1)}"
        sources = [str(table), "--map", str(mapping)]
        rows.append(_row(name, sources, folder, workers, alone, keep=folder / f"csv{times}"))
        table.unlink()
    click.echo(_compared(folder / "parquet", folder / "csv1"))
    return rows


def _row(
    name: str,
    sources: list[str],
    folder: Path,
    workers: int,
    alone: Callable[[], float],
    keep: Path | None = None,
) -> list[str]:
    out = keep or folder / "out"
    before = alone()
    run = _batch(sources, out, workers)
    model = (before + alone()) / 2
    summary = json.loads((out / "summary.json").read_text()) if run.status in (0, 1) else {}
    if not summary:
        click.echo(run.output, err=True)
        return [name, "-", "-", "-", "-", "-", str(run.status)]
    if keep is None:
        shutil.rmtree(out)
    rate = summary["inputs"] / run.seconds
    halves = " / ".join(f"{mb:.0f}" for mb in run.halves_mb)
    return [
        *(
            name,
            f"{summary['inputs']:,} ({summary['refusals']} refused)",
            f"{rate:.1f}/s in {run.seconds:.0f} s",
        ),
        *(f"{model:.1f}/s", f"{rate / model:.0%}", f"{run.peak_mb:.0f} ({halves})", str(run.status)),
    ]


def _batch(sources: list[str], out: Path, workers: int) -> Watched:
    ibt = str(Path(sys.executable).with_name("ibt"))
    return watched([ibt, "batch", *sources, "--out", str(out), "--workers", str(workers), "--device", "cpu"])


def _compared(one: Path, other: Path) -> str:
    import duckdb

    found = duckdb.execute(
        f"""SELECT count(*), count(a.risk), count(b.risk), max(abs(a.risk - b.risk))
        FROM read_parquet('{one}/predictions/*.parquet') a
        FULL JOIN read_parquet('{other}/predictions/*.parquet') b
        ON concat('n0-', a.record) = b.record AND a.hour = b.hour"""
    ).fetchone()
    assert found is not None
    return f"Parquet against CSV: {found[0]:,} hours, {found[1]:,} and {found[2]:,} of them scored, largest \
difference of a risk {found[3]:.1e}\n"


def _alone(rate: Callable[..., float], paths: list[Path], workers: int, seconds: float) -> float:
    """Inputs per second of the model alone, summed over concurrent processes."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        return sum(pool.starmap(rate, [(paths, seconds)] * workers, chunksize=1))


def _ecg_rate(paths: list[Path], seconds: float) -> float:
    from ibt_deploy.predictor import load
    from ibt_deploy.preprocess.ecg import EcgPreprocessing, standardise, windows
    from ibt_deploy.readers import read
    from ibt_deploy.records import Recording
    from ibt_deploy.scorers.ecg import EcgScorer

    predictor = load("arrhythmia", device="cpu", threads=1)
    constants, scorer = predictor.bundle.preprocessing, predictor._scorer
    assert isinstance(constants, EcgPreprocessing)
    assert isinstance(scorer, EcgScorer)
    found = [r for path in paths for r in read(path) if isinstance(r, Recording)]
    ready = [windows(standardise(recording), constants) for recording in found]
    signal = np.concatenate(ready)
    return len(ready) * _calls_per_second(lambda: scorer.logits(signal, 32), seconds)


def _stay_rate(paths: list[Path], seconds: float) -> float:
    import pyarrow.parquet as pq

    from ibt_deploy.predictor import load
    from ibt_deploy.preprocess.stay import StayPreprocessing, featurise
    from ibt_deploy.scorers.stay import StayScorer
    from ibt_deploy.vocabulary import NAMES

    predictor = load("sepsis", device="cpu", threads=1)
    constants, scorer = predictor.bundle.preprocessing, predictor._scorer
    assert isinstance(constants, StayPreprocessing)
    assert isinstance(scorer, StayScorer)
    rows: Any = pq.read_table(paths[0], columns=["patient_id", *NAMES]).slice(0, 40_000).to_pandas()
    features = []
    for _, stay in list(rows.groupby("patient_id"))[:-1]:
        values = stay[list(NAMES)].to_numpy(dtype=np.float64)
        features.append(featurise(values, np.array([0, len(values)]), constants))
    return len(features) * _calls_per_second(lambda: scorer.logits(features, 32), seconds)


def _calls_per_second(call: Callable[[], object], seconds: float) -> float:
    call()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call()
        calls += 1
    return calls / (time.perf_counter() - start)


MAPPING = """
[table]
patient = "case"
hospital = "site"
label = "SepsisLabel"

[time]
column = "icu_hour"
"""
UNITS: dict[str, tuple[str, str]] = {
    "Temp": ("degF", '"Temp"::DOUBLE * 1.8 + 32'),
    "Glucose": ("mmol/L", '"Glucose"::DOUBLE / 18.0156'),
    "Creatinine": ("umol/L", '"Creatinine"::DOUBLE * 88.402'),
    "Hgb": ("g/L", '"Hgb"::DOUBLE * 10'),
}
"""Variables with other units in the other table, and the SQL that converts them."""


def linked_copies(headers: list[Path], folder: Path, count: int) -> None:
    """Make ``count`` records in ``folder``, a thousand per subfolder, under new names.

    New headers hold the new names; the signal files are links to the originals.
    """
    for number in range(count):
        header = headers[number % len(headers)]
        place = folder / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        text = header.read_text(encoding="utf-8", errors="surrogateescape")
        name = f"copy{number:06d}"
        for signal in sorted({line.split()[0] for line in text.splitlines()[1:] if _is_signal(line)}):
            other = signal.replace(header.stem, name) if header.stem in signal else f"{name}_{signal}"
            text = re.sub(rf"^{re.escape(signal)}(?=\s)", other, text, flags=re.MULTILINE)
            _linked(header.with_name(signal), place / other)
        first, _, rest = text.partition("\n")
        record = re.sub(r"^\S+?(?=(\.mat|/\d+)?\s)", name, first)
        (place / f"{name}.hea").write_text(f"{record}\n{rest}", encoding="utf-8", errors="surrogateescape")


def renamed_csv(parquet: Path, folder: Path, times: int = 1) -> tuple[Path, Path]:
    """Write the table as one shuffled CSV with other column names and units, and its mapping.

    Stays are multiplied by ``times`` by giving each copy its own patient names.
    """
    import duckdb

    from ibt_deploy.vocabulary import NAMES

    connection = duckdb.connect()
    connection.execute("SET memory_limit = '1GB'")
    connection.execute(f"SET temp_directory = '{folder}'")
    columns = ["concat('n', copy, '-', patient_id) AS \"case\"", "hospital AS site", '"ICULOS" AS icu_hour']
    lines = [MAPPING]
    for name in NAMES:
        if name == "ICULOS":
            continue
        unit, made = UNITS.get(name, ("", f'"{name}"'))
        if name == "Gender":
            columns.append("CASE WHEN \"Gender\" = 1 THEN 'm' WHEN \"Gender\" = 0 THEN 'f' END AS sex")
            lines.append('[columns.Gender]\ncolumn = "sex"\nmale = ["m"]\nfemale = ["f"]\n')
            continue
        columns.append(f'{made} AS "x_{name}"')
        wanted = f'unit = "{unit}"' if unit else "factor = 1.0"
        lines.append(f'[columns.{name}]\ncolumn = "x_{name}"\n{wanted}\n')
    columns.append('"SepsisLabel"')
    table, mapping = folder / f"renamed{times}.csv", folder / "mapping.toml"
    connection.execute(
        f"COPY (SELECT {', '.join(columns)} FROM read_parquet('{parquet}'), range({times}) t(copy) "
        f"ORDER BY hash(copy, patient_id, hour)) TO '{table}' (HEADER)"
    )
    mapping.write_text("\n".join(lines), encoding="utf-8")
    return table, mapping


def _is_signal(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _linked(target: Path, link: Path) -> None:
    try:
        os.link(target, link)
    except OSError:  # another file system, or hard links to other users' files are forbidden
        link.symlink_to(target.resolve())


@dataclass(frozen=True)
class Watched:
    """Time, memory and output of a command.

    Attributes
    ----------
    seconds
        From start to exit.
    peak_mb
        Peak memory of the command and its children; shared pages count once (Linux: PSS).
    halves_mb
        The same for the first and second half of the time.
    status, output
        Exit status; standard output and standard error.
    """

    seconds: float
    peak_mb: float
    halves_mb: tuple[float, float]
    status: int
    output: str


def watched(command: Sequence[str]) -> Watched:
    """Run ``command`` to its end, sampling its memory."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    samples: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(PERIOD):
            samples.append(sum(_pss_kb(pid) for pid in _family(process.pid)) / 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    output, _ = process.communicate()
    over.set()
    thread.join()
    samples = samples or [0.0]
    middle = len(samples) // 2
    halves = max(samples[: middle or 1]), max(samples[middle:])
    return Watched(time.perf_counter() - start, max(samples), halves, process.returncode, output)


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for listing in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in listing.read_text().split()]
            except OSError:
                continue
    return found


def _pss_kb(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    benchmark()
