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

from ibt_deploy.device import Device
from ibt_deploy.errors import IbtError
from ibt_deploy.machine import usable_cpus

PREFIX = "IBT_SERVE_"
STATE_KEY = f"{PREFIX}STATE_KEY"
FEWEST_SECRET_CHARACTERS = 16


class SettingsError(IbtError):
    """A setting of the service that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one worker process of the service does, and where it stops.

    Attributes
    ----------
    arrhythmia, sepsis
        Task name for the packaged bundle, or a bundle's directory.
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
        Secret that signs the states of ``/v1/sepsis/next``; the same in all workers. Random where not set,
        so that a restart ends the stays that are under way.
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

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            smallest = 0 if entry.name in ("threads", "batch") else 1e-3
            if isinstance(value, int | float) and not smallest <= value < float("inf"):
                raise SettingsError(f"{PREFIX}{entry.name.upper()}={value} is out of range")
        for name, secret in (("TOKEN", self.token), ("STATE_KEY", self.state_key)):
            if secret and len(secret) < FEWEST_SECRET_CHARACTERS:
                raise SettingsError(
                    f"{PREFIX}{name} is shorter than {FEWEST_SECRET_CHARACTERS} characters, too easy to guess"
                )
        if not self.state_key:
            raise SettingsError(f"{STATE_KEY} is empty")
        if not self.token.isascii():
            raise SettingsError(f"{PREFIX}TOKEN: a bearer token is ASCII")

    @property
    def computing_threads(self) -> int:
        """Threads that compute answers."""
        return self.threads or usable_cpus()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings as the environment states them, else their defaults; raises SettingsError."""
        stated = os.environ if environment is None else environment
        kinds = get_type_hints(cls)
        chosen: dict[str, Any] = {}
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
