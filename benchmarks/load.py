"""The HTTP service under load, client and server on this machine: ``python -m benchmarks.load``.

First the models alone on the same cores; then throughput and latency with 1 to 128 clients; then four times
as many requests as can be answered; and with ``--soak`` a long time at saturation. With ``--compare`` servers
of the same application are measured side by side instead, with their memory at saturation and the lines of
our code that each of them needs.
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
from benchmarks.load_server import COMMANDS, Server, lines_needed, started
from benchmarks.machine import keep, markdown
from ibt_deploy import __version__
from ibt_deploy.bundle import load_bundle
from ibt_deploy.client import multipart, upload_of
from ibt_deploy.device import OpenGraph, usable_cpus

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
INPUTS = {"arrhythmia": EXAMPLES / "recording.hea", "sepsis": EXAMPLES / "stay.psv"}
WORDS = {"arrhythmia": "ECG", "sepsis": "stay of 40 h"}
CLIENTS = (1, 8, 32, 128)
SATURATING = 32
OVERLOAD = 4
SOAK = 180.0
TOGETHER = 8
"""Most requests that share a run in a busy service."""
RECOVERED, BIN = 0.9, 0.25


@click.command()
@click.option(
    "--seconds", default=8.0, show_default=True, type=click.FloatRange(1, 120), help="For each figure."
)
@click.option(
    "--soak",
    type=click.FloatRange(0, 3600),
    help="Seconds at saturation, at the end.  [default: 0, with --compare 180]",
)
@click.option(
    "--task", type=click.Choice(list(INPUTS)), multiple=True, help="Only this task; may be repeated."
)
@click.option("--compare", is_flag=True, help="Compare servers of the same application.")
@click.option(
    "--rounds", default=2, show_default=True, type=click.IntRange(1, 20), help="Of --compare, in turn."
)
@click.option("--save", is_flag=True, help="Write the ratios of --compare beside those of the release.")
@click.argument("options", nargs=-1, metavar="[-- OPTIONS OF IBT SERVE]")
def load(
    seconds: float,
    soak: float | None,
    task: tuple[str, ...],
    compare: bool,
    rounds: int,
    save: bool,
    options: tuple[str, ...],
) -> None:
    """Measure the HTTP service under load, beside the pure rate of its models."""
    tasks = task or tuple(INPUTS)
    cores = usable_cpus()
    if compare:
        if options:
            raise click.UsageError("--compare gives every server the same options")
        machine = f"{_machine(cores)}, load average {os.getloadavg()[0]:.1f}"
        click.echo(machine + "\n")
        ratios = _compare(tasks, cores, seconds, rounds, SOAK if soak is None else soak)
        if save:
            click.echo(f"\n{keep(f'{__version__}-service', machine, seconds, ratios)}", err=True)
        return
    if save:
        raise click.UsageError("--save goes with --compare")
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
    """Performance of a graph by itself: inputs per second, and milliseconds of CPU for each."""

    rate: float
    cpu: float


def alone(task: str, cores: int, seconds: float, batch: int = 1) -> Alone:
    """The better of one session on all cores, and one session per core; ``batch`` inputs in each run."""
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


class Figure(NamedTuple):
    """Measurements of a closed load.

    Attributes
    ----------
    rate
        Answers per second.
    milliseconds
        Latency of each answer.
    cpu
        Server CPU time per answer, in milliseconds.
    client_share
        Client's share of the CPU time of client and server.
    outcome
        All answers.
    """

    rate: float
    milliseconds: np.ndarray
    cpu: float
    client_share: float
    outcome: Outcome


def _figure(server: Server, requests: list[bytes], clients: int, seconds: float) -> Figure:
    began, client, served = time.perf_counter(), time.process_time(), server.cpu_seconds()
    outcome = asyncio.run(closed_load(server.port, requests, clients, seconds))
    client, served = time.process_time() - client, server.cpu_seconds() - served
    ended, took, status = outcome.arrays()
    good = status == 200
    end = ended.max(initial=began + seconds)  # pending requests keep the server busy until then
    return Figure(
        float(good.sum() / (end - began)),
        took[good] * 1e3,
        float(1e3 * served / max(good.sum(), 1)),
        client / (client + served),
        outcome,
    )


def _percentiles(milliseconds: np.ndarray) -> list[float]:
    """The 50th, 95th and 99th percentiles."""
    found: list[float] = np.percentile(milliseconds, (50, 95, 99)).tolist() if milliseconds.size else []
    return found or [float("nan")] * 3


def _throughput(server: Server, task: str, requests: list[bytes], cores: int, seconds: float) -> float:
    """Print one table; return the answers per second at saturation.

    The models alone are timed before and after, because other load on the machine varies.
    """
    rows: list[list[str]] = []
    rates: dict[int, float] = {}
    before = alone(task, cores, seconds)
    asyncio.run(closed_load(server.port, requests, 4, 1.0))
    for clients in CLIENTS:
        figure = _figure(server, requests, clients, seconds)
        rates[clients] = figure.rate
        rows.append(
            [
                f"{clients}",
                f"{figure.rate:.1f}",
                "",
                *(f"{p:.1f}" for p in _percentiles(figure.milliseconds)),
                f"{figure.cpu:.1f}",
                _refusals(figure.outcome)
                + (f"; {other}" if (other := _others(figure.outcome)) != "none" else ""),
                f"{100 * figure.client_share:.0f} %",
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


def _compare(tasks: Sequence[str], cores: int, seconds: float, rounds: int, soak: float) -> dict[str, float]:
    """Print one table of all servers; return their rates as shares of the model's, by name.

    Every server has one single-threaded worker per core. The servers take turns, so that other load on the
    machine affects all of them, and each turn begins with the model alone. Rates and ratios are medians of
    the rounds; percentiles are those of all their answers together.
    """
    requests = {task: _requests(task) for task in tasks}
    figures: dict[tuple[str, str, int], list[Figure]] = {}
    shares: dict[tuple[str, str, int], list[float]] = {}
    soaks: dict[str, Soak] = {}
    turns = [(f"round {number} of {rounds}", name) for number in range(1, rounds + 1) for name in COMMANDS]
    turns += [(f"{soak:g} s at saturation", name) for name in COMMANDS if soak]
    began = time.perf_counter()
    for done, (turn, name) in enumerate(turns):
        minutes = (time.perf_counter() - began) / 60
        click.echo(f"{minutes:.0f} min, {done} of {len(turns)} turns done; next {name}, {turn}", err=True)
        workers = ("--workers", str(cores)) if name != "bentoml serve" else ()
        environment = {"IBT_SERVE_THREADS": "1", "IBT_SERVE_WORKERS": str(cores)}
        with started(*workers, server=name, patience=300.0, **environment) as server:
            if done >= rounds * len(COMMANDS):
                soaks[name] = _soaked(server, [r for task in tasks for r in requests[task]], soak)
                continue
            for task in tasks:
                pure = alone(task, cores, seconds).rate
                asyncio.run(closed_load(server.port, requests[task], 4, 2.0))
                for clients in CLIENTS:
                    figure = _figure(server, requests[task], clients, seconds)
                    figures.setdefault((name, task, clients), []).append(figure)
                    shares.setdefault((name, task, clients), []).append(figure.rate / pure)
    rows, ratios = [], {}
    first = next(iter(COMMANDS))
    for (name, task, clients), found in figures.items():
        rates, cpu = np.array([f.rate for f in found]), np.array([f.cpu for f in found])
        to_first = rates / [f.rate for f in figures[first, task, clients]]
        share = float(np.median(shares[name, task, clients]))
        ratios[f"{name}, {WORDS[task]}, {clients} clients, of the model alone"] = share
        is_first_row = (task, clients) == (tasks[0], CLIENTS[0])
        own, shared = lines_needed(name)
        rows.append(
            [
                name,
                WORDS[task],
                f"{clients}",
                f"{np.median(rates):.1f}",
                f"{100 * share:.0f} %",
                f"{np.median(to_first):.2f} ({to_first.min():.2f} to {to_first.max():.2f})"
                if name != first
                else "1",
                ", ".join(f"{p:.0f}" for p in _percentiles(np.concatenate([f.milliseconds for f in found]))),
                f"{np.median(cpu):.1f}",
                _memory(soaks[name]) if is_first_row and soak else "",
                f"{own} + {shared}" if is_first_row else "",
            ]
        )
    of_first, at_end = f"of {first} in the same round", f"MiB after {soak:g} s at saturation"
    header = ["server", "asked for", "clients", "answers/s", "of the model alone", of_first]
    click.echo(markdown([*header, "p50, p95, p99 ms", "CPU ms each", at_end, "lines of ours"], rows))
    outcomes = [figure.outcome for found in figures.values() for figure in found]
    other = {_others(outcome) for outcome in [*outcomes, *(s.outcome for s in soaks.values())]} - {"none"}
    click.echo(
        f"\n{rounds} rounds of {seconds:g} s for each figure: medians, in brackets lowest and highest; "
        "percentiles over all answers.\nMemory: all processes of a server under "
        f"{CLIENTS[-1]} clients with all tasks, in brackets the change since {_early(soak):g} s.\n"
        "Lines of ours, beyond what all servers need: for this server alone + for it and another.\n"
        f"Answers other than 200, {' and '.join(map(str, REFUSED))}: {'; '.join(sorted(other)) or 'none'}."
    )
    return ratios


class Soak(NamedTuple):
    """Bytes of memory after a third of a long load (at most a minute), at its end and peak; the answers."""

    early: float
    late: float
    most: float
    outcome: Outcome

    @property
    def change(self) -> str:
        """Change of memory, in per cent."""
        return f"{100 * (self.late / self.early - 1):+.1f} %"


def _soaked(server: Server, requests: list[bytes], seconds: float) -> Soak:
    first = _early(seconds)
    load = closed_load(server.port, requests, CLIENTS[-1], seconds)
    outcome, memory = asyncio.run(_watched(server, load))
    early = np.median([m for t, m in memory if first <= t < first + 5])
    late = np.median([m for t, m in memory if seconds - 5 <= t <= seconds])
    return Soak(float(early), float(late), float(max(m for _, m in memory)), outcome)


def _early(seconds: float) -> float:
    return min(60.0, seconds / 3)


def _memory(soak: Soak) -> str:
    return f"{soak.late / 2**20:.0f} ({soak.change})"


def _overload(server: Server, task: str, requests: list[bytes], rate: float, seconds: float) -> None:
    """Send four times as many requests as can be answered, and then as many as can be."""
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
    """Seconds until the first quarter of a second served at nine tenths of the usual rate."""
    ended, _, status = after.arrays()
    when = ended[status == 200] - stopped
    counts = np.bincount((when[when >= 0] / BIN).astype(int))
    good = np.flatnonzero(counts >= RECOVERED * rate * BIN)
    return f"{(good[0] + 1) * BIN:.2f} s" if len(good) else "longer than was measured"


def _soak(server: Server, requests: list[bytes], seconds: float) -> None:
    """Run a long time at saturation; print answers, and memory after the first minute and at the end."""
    soak = _soaked(server, requests, seconds)
    click.echo(f"{seconds:g} s at saturation, {CLIENTS[-1]} clients:")
    click.echo(
        f"- {soak.outcome.status.count(200)} answered, {_refusals(soak.outcome)} refused, "
        f"others: {_others(soak.outcome)}"
    )
    click.echo(
        f"- resident memory: {soak.early / 2**20:.0f} MiB after {_early(seconds):g} s, "
        f"{soak.late / 2**20:.0f} MiB at the end ({soak.change}), at most {soak.most / 2**20:.0f} MiB"
    )


async def _watched(
    server: Server, load: Coroutine[Any, Any, Outcome]
) -> tuple[Outcome, list[tuple[float, int]]]:
    """Run a load; return its outcome and the server's memory: seconds since the start, and bytes."""
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
