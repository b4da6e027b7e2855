"""Configuration of the service by environment variables, which the options of ``ibt serve`` set.

Every field of :class:`Settings` is the variable ``IBT_SERVE_<FIELD>``, so that ``bentoml serve``, a container
and worker processes are configured in the same way.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from ibt_deploy.device import Device, driver_is_there, usable_cpus, usable_memory
from ibt_deploy.errors import IbtError

PREFIX = "IBT_SERVE_"
STATE_KEY = f"{PREFIX}STATE_KEY"
FEWEST_SECRET_CHARACTERS = 16
BYTES_PER_WORKER = 2**30
"""Memory of a worker: 205 MiB at rest, 330 under load, and the bodies that it may hold."""
MOST_WORKERS = 32
CPUS_PER_GPU_WORKER = 4


class SettingsError(IbtError):
    """A setting of the service that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Behaviour of one worker process of the service, and its limits.

    Attributes
    ----------
    arrhythmia, sepsis
        Task name for the packaged bundle, a bundle's directory, or ``store:TAG`` for one in BentoML's model
        store.
    device, precision
        As for ``ibt predict``; both models use them.
    threads
        Requests computed at once; 0 means one for every usable CPU (``ibt serve`` sets the
        process's share of them).
    batch
        Maximum number of waiting requests of one kind per graph run; 0 means 8 on a CPU and 32
        on a GPU (docs/service.md has the figures).
    queue
        Requests that may wait for a thread.
    answer_seconds
        Longest wait for an answer, once the body has arrived.
    body_seconds, idle_seconds, body_rate
        Longest time that a body may take, and that it may pause; and the bytes that must have arrived, after
        the first second, for each second elapsed.
    body_bytes, unpacked_bytes
        Size of a body as sent, and after all decompression.
    memory_bytes
        Memory of all bodies held at once.
    parts
        Files in one upload, including members of an archive.
    rows
        Hourly rows in one body.
    record_seconds
        Length of a recording in seconds.
    json_depth
        Nesting depth of arrays and objects.
    token
        Bearer token that ``/v1`` and ``/metrics`` require; empty for none.
    state_key
        Secrets that sign the states of ``/v1/sepsis/next``, one per line; the same in all workers. The first
        signs, all of them verify, so that keys can be rotated. Random if not set, so that a restart
        ends the stays in progress.
    state_seconds
        Age at which a state is refused.
    """

    arrhythmia: str = "arrhythmia"
    sepsis: str = "sepsis"
    device: Device = "auto"
    precision: str = ""
    threads: int = 0
    batch: int = 0
    queue: int = 64
    answer_seconds: float = 30.0
    body_seconds: float = 30.0
    idle_seconds: float = 5.0
    body_rate: float = 1024.0
    body_bytes: int = 32 * 2**20
    unpacked_bytes: int = 64 * 2**20
    memory_bytes: int = 512 * 2**20
    parts: int = 32
    rows: int = 20_000
    record_seconds: float = 600.0
    json_depth: int = 8
    token: str = field(default="", repr=False)
    state_key: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    state_seconds: float = 14 * 86_400.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            smallest = 0 if entry.name in ("threads", "batch") else 1e-3
            if isinstance(value, int | float) and not smallest <= value < float("inf"):
                raise SettingsError(f"{PREFIX}{entry.name.upper()}={value} is out of range")
        keys = [("STATE_KEY", key.decode()) for key in self.state_keys]
        for name, secret in (("TOKEN", self.token), *keys):
            if secret and len(secret) < FEWEST_SECRET_CHARACTERS:
                raise SettingsError(
                    f"{PREFIX}{name} is shorter than {FEWEST_SECRET_CHARACTERS} characters, too easy to guess"
                )
        if not keys:
            raise SettingsError(f"{STATE_KEY} is empty")
        if not self.token.isascii():
            raise SettingsError(f"{PREFIX}TOKEN: a bearer token is ASCII")

    @property
    def state_keys(self) -> tuple[bytes, ...]:
        """Keys of states, the signing one first."""
        return tuple(line.strip().encode() for line in self.state_key.splitlines() if line.strip())

    @property
    def computing_threads(self) -> int:
        """Number of threads that compute answers."""
        return self.threads or usable_cpus()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from the environment, else their defaults.

        Raises
        ------
        SettingsError
            A value cannot be used, including a token that is set but blank, as if a secret was not filled in.
        """
        stated = os.environ if environment is None else environment
        kinds = get_type_hints(cls)
        chosen: dict[str, Any] = {}
        if not stated.get(f"{PREFIX}TOKEN", "unset").strip():
            raise SettingsError(f"{PREFIX}TOKEN is set but empty; unset it to serve without a token")
        for entry in fields(cls):
            variable = f"{PREFIX}{entry.name.upper()}"
            if variable not in stated:
                continue
            kind = kinds[entry.name]
            try:
                chosen[entry.name] = kind(stated[variable]) if kind in (int, float) else stated[variable]
            except ValueError as error:
                raise SettingsError(f"{variable} is not a number") from error
        return cls(**chosen)


def share_state_key() -> None:
    """Choose the key of this group of processes, unless there is one: workers inherit it."""
    os.environ.setdefault(STATE_KEY, secrets.token_hex(32))


def default_workers(device: Device, threads: int | None = None) -> int:
    """One process per CPU, as far as memory allows: the interpreter lock is per process.

    One per ``threads`` CPUs if the number of threads is stated; on a GPU one per four
    CPUs at least, because each has its own copy of the models there.
    """
    cpus = usable_cpus()
    if device == "cuda" or (device == "auto" and driver_is_there()):
        return max(1, cpus // max(threads or 0, CPUS_PER_GPU_WORKER))
    return max(1, min(cpus // (threads or 1), usable_memory() // BYTES_PER_WORKER, MOST_WORKERS))


def default_threads(workers: int) -> int:
    """Requests that each process computes at once, so that no CPU is left idle."""
    return -(-usable_cpus() // workers)
