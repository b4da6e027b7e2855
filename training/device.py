"""Compute environment of a run: device, number format, and the processes that ``torchrun`` started."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits
from torch import Tensor

from ibt_deploy.device import usable_cpus
from ibt_deploy.errors import DeviceError


def chosen_device(name: str, local_rank: int = 0) -> torch.device:
    """The torch device: ``auto`` uses CUDA if available; ``cuda`` without it is an error."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError("cuda was requested, but PyTorch finds no CUDA device")
        return torch.device("cuda", local_rank)
    return torch.device(name)


def chosen_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The number format for ``fit.precision``.

    bf16 is used on CUDA and on CPUs with bf16 instructions, where it was measured to be faster. Other CPUs
    would emulate it many times slower, or lack it: there ``bf16`` prints a notice and uses float32.
    """
    if precision == "fp32":
        return torch.float32
    if computes_bf16(device):
        return torch.bfloat16
    if precision == "bf16":
        _say_no_bf16()
    return torch.float32


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()


@cache
def _say_no_bf16() -> None:
    print('precision = "bf16": this processor does not compute in bf16; float32 is used', file=sys.stderr)


def _cpu_flags() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to ``dtype``, or nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


PRODUCT_SIZE = {"cpu": 1024, "cuda": 8192}


def product_flops(device: torch.device, dtype: torch.dtype, repeats: int = 10) -> float:
    """Floating-point operations per second in large matrix products, the attainable peak of ``device``."""
    n = PRODUCT_SIZE[device.type]
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        float((a @ b)[0, 0])  # waits for the device
        times.append(time.perf_counter() - started)
    return 2 * n**3 / min(times)


T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Rank of this process, number of processes, and rank on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def share(self) -> slice:
        """Which items of a batch this process takes."""
        return slice(self.rank, None, self.size)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def mean(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each term averaged over the processes."""
        if self.size == 1:
            return dict(terms)
        stacked = torch.stack([terms[name] for name in sorted(terms)])
        dist.all_reduce(stacked)
        averaged = (stacked / self.size).unbind()
        of = dict(zip(sorted(terms), averaged, strict=True))
        return {name: of[name] for name in terms}

    def from_first(self, result: Callable[[], T]) -> T:
        """Return in every process what ``result`` gives in the first.

        Processes must not decide on their own numbers, which differ without synchronised batch norms.
        """
        if self.size == 1:
            return result()
        shared: list[T | None] = [result() if self.is_first else None]
        dist.broadcast_object_list(shared)
        value: T = shared[0]  # type: ignore[assignment]
        return value


def worker_processes(jobs: int, threads: int | None = None) -> ProcessPoolExecutor:
    """A pool of ``jobs`` processes, each with ``threads`` threads; by default, they share the CPUs.

    They are spawned, because a forked process cannot use CUDA, and live until the pool is closed: each
    initialises CUDA once, and keeps the data that :func:`training.tasks.open_source` has read.
    """
    return ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_limit_threads,
        initargs=(threads or max(usable_cpus() // jobs, 1),),
    )


def _limit_threads(threads: int) -> None:
    """Limit the threads of torch and of the numerical libraries that this process has loaded so far."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)


@contextmanager
def memory_given_back() -> Iterator[None]:
    """Free what the block allocated when it ends, because other processes need the device's memory."""
    try:
        yield
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raise DeviceError when the block runs out of device memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            "the device has too little memory: set a smaller fit.batch_size, or train fewer runs at a time"
        ) from error


def is_first_process() -> bool:
    """Whether this is the only process or the first that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def process_group(device: str) -> Iterator[Place]:
    """Join the process group that ``torchrun`` describes in the environment, if any."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Place()
        return
    cuda = device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        place = Place(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
        if cuda:
            torch.cuda.set_device(place.local_rank)
        yield place
        dist.barrier()  # a process that leaves while the first is still writing can abort in its own teardown
    finally:
        dist.destroy_process_group()
