"""How the service is configured: by environment variables, which the options of ``ibt serve`` set.

Every field of :class:`Settings` is the variable ``IBT_SERVE_<FIELD>``, so that ``bentoml serve``, a container
and worker processes are configured alike.
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
"""At rest 205 MiB, under load 330, and the bodies that it may hold."""
MOST_WORKERS = 32
CPUS_PER_GPU_WORKER = 4


class SettingsError(IbtError):
    """A setting of the service that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one worker process of the service does, and its limits.

    Attributes
    ----------
    arrhythmia, sepsis
        Task name for the packaged bundle, a bundle's directory, or ``store:TAG`` for one in BentoML's model
        store.
    device, precision
        As for ``ibt predict``; the precision is that of the arrhythmia model.
    threads
        Requests that are computed at once; 0 means one for every usable CPU (``ibt serve`` states the
        process's share of them).
    batch
        Waiting requests of one kind that go through the graph together, at most; 0 means 8 on a CPU and 32
        on a GPU (docs/service.md has the figures).
    queue
        Requests that may wait for a thread.
    answer_seconds
        Longest wait for an answer, once the body is there.
    body_seconds, idle_seconds, body_rate
        Longest time that a body may take, and that it may pause; and the bytes that must have come, after
        the first second, for each second that has passed.
    body_bytes, unpacked_bytes
        Size of a body as sent, and after every decompression.
    memory_bytes
        Of all bodies that are held at once.
    parts
        Files of one upload, members of an archive included.
    rows
        Hourly rows of one body.
    record_seconds
        Length of a recording.
    json_depth
        Arrays and objects within each other.
    token
        Bearer token that ``/v1`` and ``/metrics`` ask for; empty for none.
    state_key
        Secrets that sign the states of ``/v1/sepsis/next``, one per line; the same in all workers. The first
        signs, all of them open states, so that keys can be rotated. Random if not set, so that a restart
        ends the stays that are under way.
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
        """Keys of states, the one that signs first."""
        return tuple(line.strip().encode() for line in self.state_key.splitlines() if line.strip())

    @property
    def computing_threads(self) -> int:
        """Threads that compute answers."""
        return self.threads or usable_cpus()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings as the environment states them, else their defaults.

        Raises
        ------
        SettingsError
            A value cannot be used; also a token that is set but blank, as a secret that was not filled in is.
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
    """One process for each CPU, as far as memory goes: Python's own work holds one lock a process.

    One for every ``threads`` CPUs where it is stated how many threads each has; on a GPU one for every four
    CPUs at least, because each has its own copy of the models there.
    """
    cpus = usable_cpus()
    if device == "cuda" or (device == "auto" and driver_is_there()):
        return max(1, cpus // max(threads or 0, CPUS_PER_GPU_WORKER))
    return max(1, min(cpus // (threads or 1), usable_memory() // BYTES_PER_WORKER, MOST_WORKERS))


def default_threads(workers: int) -> int:
    """Requests that each of the processes computes at once, so that no CPU is left idle."""
    return -(-usable_cpus() // workers)
