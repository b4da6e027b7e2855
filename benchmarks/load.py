"""The HTTP service under load, client and server on this machine: ``python -m benchmarks.load``.

First what the models alone do with the same cores; then throughput and latency at 1 to 128 clients; then four
times more requests than can be answered; and with ``--soak`` a long time at saturation. With
``--compare`` servers of the same application are measured side by side instead.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks.load_client import REFUSED, Outcome, closed_load, open_load, request_of
from benchmarks.load_server import COMMANDS, Server, started
from benchmarks.machine import markdown
from ibt_deploy.bundle import load_bundle
from ibt_deploy.client import multipart, upload_of
from ibt_deploy.device import OpenGraph, usable_cpus

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
INPUTS = {"arrhythmia": EXAMPLES / "recording.hea", "sepsis": EXAMPLES / "stay.psv"}
WORDS = {"arrhythmia": "ECG", "sepsis": "stay of 40 h"}
CLIENTS = (1, 8, 32, 128)
SATURATING = 32
OVERLOAD = 4
TOGETHER = 8
"""So many share a run in a busy service, at most."""
RECOVERED, BIN = 0.9, 0.25


@click.command()
@click.option(
    "--seconds", default=8.0, show_default=True, type=click.FloatRange(1, 120), help="For each figure."
)
@click.option(
    "--soak", default=0.0, type=click.FloatRange(0, 3600), help="Seconds at saturation, at the end."
)
@click.option(
    "--task", type=click.Choice(list(INPUTS)), multiple=True, help="Only this task; may be repeated."
)
@click.option("--compare", is_flag=True, help="Compare servers of the same application, as ratios only.")
@click.option(
    "--rounds", default=2, show_default=True, type=click.IntRange(1, 20), help="Of --compare, in turn."
)
@click.argument("options", nargs=-1, metavar="[-- OPTIONS OF IBT SERVE]")
def load(
    seconds: float, soak: float, task: tuple[str, ...], compare: bool, rounds: int, options: tuple[str, ...]
) -> None:
    """Measure the HTTP service under load, beside the pure rate of its models."""
    tasks = task or tuple(INPUTS)
    cores = usable_cpus()
    if compare:
        click.echo(f"{_machine(cores)}, load average {os.getloadavg()[0]:.1f}\n")
        _compare(tasks, cores, seconds, rounds)
        return
    with started(*options) as server:
        requests = {t: _requests(t) for t in tasks}
        click.echo(f"{_machine(cores)}\n")
        rates = {}
        for t in tasks:
            rates[t] = _throughput(server, t, requests[t], cores, seconds)
        for t in tasks:
            _overload(server, t, requests[t], rates[t], seconds)
        if soak:
            _soak(server, [r for t in tasks for r in requests[t]], soak)


class Alone(NamedTuple):
    """What a graph does without anything around it: inputs a second, and milliseconds of CPU for each."""

    rate: float
    cpu: float


def alone(task: str, cores: int, seconds: float, batch: int = 1) -> Alone:
    """The better of one session on all cores, and one session for each; ``batch`` inputs in each run."""
    bundle = load_bundle(task)
    found = []
    for sessions, threads in dict.fromkeys([(1, cores), (cores, 1)]):
        graphs = [OpenGraph.of(bundle, device="cpu", variant=None, threads=threads) for _ in range(sessions)]
        began, used = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(sessions) as pool:
            done = sum(pool.map(partial(_runs, task, end=began + seconds / 2, batch=batch), graphs))
        elapsed, used = time.perf_counter() - began, time.process_time() - used
        found.append(Alone(done / elapsed, 1e3 * used / done))
    return max(found)


def _runs(task: str, graph: OpenGraph, end: float, batch: int) -> int:
    run: Callable[[], Any]
    generator = np.random.default_rng(0)
    if task == "arrhythmia":
        signal = generator.standard_normal((batch, 12, 2000), dtype=np.float32)
        run = lambda: graph.run(["logits"], {"signal": signal})  # noqa: E731
    else:
        rows = generator.standard_normal((batch, 40, 109), dtype=np.float32)
        past_k, past_v = graph.empty_cache(batch)
        feeds = {
            "rows": rows,
            "position": np.tile(np.arange(40), (batch, 1)),
            "past_k": past_k,
            "past_v": past_v,
        }
        run = lambda: graph.run(["logit"], feeds)  # noqa: E731
    done = 0
    while time.perf_counter() < end:
        run()
        done += batch
    return done


def _requests(task: str) -> list[bytes]:
    return [request_of(f"/v1/{task}", *multipart(upload_of(INPUTS[task]).files))]


def _throughput(server: Server, task: str, requests: list[bytes], cores: int, seconds: float) -> float:
    """Print one table; returns the answers a second at saturation.

    The models alone are timed before and after, because other work on the machine comes and goes.
    """
    rows: list[list[str]] = []
    rates: dict[int, float] = {}
    before = alone(task, cores, seconds)
    asyncio.run(closed_load(server.port, requests, 4, 1.0))
    for clients in CLIENTS:
        began, client, served = time.perf_counter(), time.process_time(), server.cpu_seconds()
        outcome = asyncio.run(closed_load(server.port, requests, clients, seconds))
        client, served = time.process_time() - client, server.cpu_seconds() - served
        ended, took, status = outcome.arrays()
        inside = ended < began + seconds
        good = inside & (status == 200)
        rates[clients] = good.sum() / seconds
        p50, p95, p99 = np.percentile(took[good], (50, 95, 99)) * 1e3 if good.any() else [float("nan")] * 3
        rows.append(
            [
                f"{clients}",
                f"{rates[clients]:.1f}",
                "",
                *(f"{p:.1f}" for p in (p50, p95, p99)),
                f"{1e3 * served / max((status == 200).sum(), 1):.1f}",
                _refusals(outcome) + (f"; {other}" if (other := _others(outcome)) != "none" else ""),
                f"{100 * client / (client + served):.0f} %",
            ]
        )
    after = alone(task, cores, seconds)
    together = alone(task, cores, seconds, TOGETHER)
    for row, rate in zip(rows, rates.values(), strict=True):
        row[2] = f"{100 * rate / ((before.rate + after.rate) / 2):.0f} %"
    click.echo(
        f"{WORDS[task]}: the model alone scores {before.rate:.1f} a second before and {after.rate:.1f} "
        f"after, with {before.cpu:.1f} and {after.cpu:.1f} ms of CPU for each; {together.rate:.1f} a second "
        f"with {together.cpu:.1f} ms in runs of {TOGETHER}\n"
    )
    header = [
        "clients",
        "answers/s",
        "of the model alone",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "CPU ms each",
        "refused",
    ]
    click.echo(markdown([*header, "client's share of CPU"], rows) + "\n")
    return float(rates[SATURATING])


def _compare(tasks: Sequence[str], cores: int, seconds: float, rounds: int) -> None:
    """Print a table for each task: rate and CPU time of each server, relative to the first server.

    Every server has one worker of one thread for each core. The servers take turns, so that other work on the
    machine meets all of them; a ratio is the median of the rounds, with its lowest and highest behind it.
    """
    found: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for number in range(1, rounds + 1):
        for name in COMMANDS:
            click.echo(f"round {number} of {rounds}: {name}", err=True)
            workers = ("--workers", str(cores)) if name != "bentoml serve" else ()
            environment = {"IBT_SERVE_THREADS": "1", "IBT_SERVE_WORKERS": str(cores)}
            with started(*workers, server=name, patience=300.0, **environment) as server:
                for task in tasks:
                    requests = _requests(task)
                    asyncio.run(closed_load(server.port, requests, 4, 2.0))
                    for clients in CLIENTS:
                        served = server.cpu_seconds()
                        began = time.perf_counter()
                        outcome = asyncio.run(closed_load(server.port, requests, clients, seconds))
                        served = server.cpu_seconds() - served
                        ended, _, status = outcome.arrays()
                        answered = int((status == 200).sum())
                        rate = answered / (max(ended[-1], began + seconds) - began) if answered else 0.0
                        each = served / answered if answered else float("nan")
                        found.setdefault((task, name, clients), []).append((rate, each))
    for task in tasks:
        rows = []
        for name in COMMANDS:
            for what, place in (("answers/s", 0), ("CPU time of an answer", 1)):
                cells = []
                for clients in CLIENTS:
                    own = [values[place] for values in found[task, name, clients]]
                    first = [values[place] for values in found[task, next(iter(COMMANDS)), clients]]
                    cells.append(_ratio(own, first))
                rows.append([name, what, *cells])
        click.echo(f"{WORDS[task]}, relative to {next(iter(COMMANDS))} in the same round, {rounds} rounds\n")
        click.echo(markdown(["server", "", *(f"{n} clients" for n in CLIENTS)], rows) + "\n")


def _ratio(own: list[float], first: list[float]) -> str:
    ratios = np.array(own) / np.array(first)
    return f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


def _overload(server: Server, task: str, requests: list[bytes], rate: float, seconds: float) -> None:
    """Four times what can be answered, and then as much as can be."""
    before = server.resident()
    outcome, memory = asyncio.run(
        _watched(server, open_load(server.port, requests, OVERLOAD * rate, seconds))
    )
    stopped = time.perf_counter()
    after = asyncio.run(closed_load(server.port, requests, SATURATING, max(seconds, 4.0), patient=False))
    ended, took, status = outcome.arrays()
    refused = np.isin(status, REFUSED)
    sent = len(status) / seconds
    click.echo(
        f"{WORDS[task]}, {OVERLOAD} times saturation: {sent:.0f} requests/s sent, {outcome.skipped} held back"
    )
    click.echo(f"- answers/s: {(status == 200).sum() / (ended[-1] - ended[0]):.1f} (before: {rate:.1f})")
    if refused.any():
        p50, p99 = np.percentile(took[refused], (50, 99)) * 1e3
        click.echo(f"- refused {refused.sum()} ({_refusals(outcome)}) in p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    click.echo(f"- other answers: {_others(outcome)}")
    most = max(m for _, m in memory)
    click.echo(f"- resident memory: {before / 2**20:.0f} MiB before, at most {most / 2**20:.0f} MiB")
    click.echo(f"- full rate again after {_recovery(after, stopped, rate)}\n")


def _recovery(after: Outcome, stopped: float, rate: float) -> str:
    """Seconds until a quarter of a second was served at nine tenths of the usual rate."""
    ended, _, status = after.arrays()
    when = ended[status == 200] - stopped
    counts = np.bincount((when[when >= 0] / BIN).astype(int))
    good = np.flatnonzero(counts >= RECOVERED * rate * BIN)
    return f"{(good[0] + 1) * BIN:.2f} s" if len(good) else "longer than was measured"


def _soak(server: Server, requests: list[bytes], seconds: float) -> None:
    """A long time at saturation: what is answered, and the memory after the first minute and at the end."""
    first = min(60.0, seconds / 2)

    outcome, memory = asyncio.run(_watched(server, closed_load(server.port, requests, CLIENTS[-1], seconds)))
    early = np.median([m for t, m in memory if first <= t < first + 5])
    late = np.median([m for t, m in memory if seconds - 5 <= t <= seconds])
    _, _, status = outcome.arrays()
    click.echo(f"{seconds:g} s at saturation, {CLIENTS[-1]} clients:")
    click.echo(
        f"- {(status == 200).sum()} answered, {_refusals(outcome)} refused, others: {_others(outcome)}"
    )
    click.echo(
        f"- resident memory: {early / 2**20:.0f} MiB after {first:g} s, {late / 2**20:.0f} MiB at the end "
        f"({100 * (late / early - 1):+.1f} %), at most {max(m for _, m in memory) / 2**20:.0f} MiB"
    )


async def _watched(
    server: Server, load: Coroutine[Any, Any, Outcome]
) -> tuple[Outcome, list[tuple[float, int]]]:
    """The outcome of a load, and meanwhile the memory of the server: seconds since it began, and bytes."""
    began = time.perf_counter()
    running = asyncio.create_task(load)
    seen: list[tuple[float, int]] = []
    while not running.done():
        seen.append((time.perf_counter() - began, server.resident()))
        await asyncio.wait([running], timeout=0.5)
    return await running, seen


def _refusals(outcome: Outcome) -> str:
    counts = {code: outcome.status.count(code) for code in REFUSED}
    return ", ".join(f"{n} x {code}" for code, n in counts.items() if n) or "0"


def _others(outcome: Outcome) -> str:
    codes = sorted(set(outcome.status) - {200, *REFUSED})
    return ", ".join(f"{outcome.status.count(c)} x {c or 'broken connection'}" for c in codes) or "none"


def _machine(cores: int) -> str:
    import platform

    import onnxruntime

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.machine())
    versions = f"Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}"
    return f"{cpu}, {cores} cores for client and server together; {versions}"


if __name__ == "__main__":
    load()
