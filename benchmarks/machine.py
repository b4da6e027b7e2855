"""What the benchmarks share: description of the machine, timing, tables, saved results."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from ibt_deploy import __version__
from ibt_deploy.files import atomic_write

RESULTS = Path(__file__).parent / "results"
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)

EAGER = "packaged network in PyTorch eager"
"""What every way of scoring is compared with."""


def machine_line(threads: int) -> str:
    """Processor, threads and versions in one line."""
    import onnxruntime
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{cpu}{gpu}, {threads} threads; Python {platform.python_version()}, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}"
    )


def seconds_per_call(call: Callable[[], object], least: float) -> float:
    """Median time of one call, measured for at least ``least`` seconds after a warm-up."""
    call()
    call()
    times: list[float] = []
    while sum(times) < least or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def keep(name: str, machine: str, seconds: float, ratios: Mapping[str, float]) -> Path:
    """Write ratios of this release to ``results/NAME.json``, for ``python -m benchmarks compare``."""
    rounded = {what: float(f"{ratio:.3g}") for what, ratio in ratios.items()}
    kept = {"release": __version__, "machine": machine, "seconds": seconds, "ratios": rounded}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    atomic_write(path, json.dumps(kept, indent=1) + "\n")
    return path
