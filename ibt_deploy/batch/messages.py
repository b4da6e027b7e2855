"""What a worker is told, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ibt_deploy.batch.items import Items
from ibt_deploy.batch.job import Job
from ibt_deploy.batch.output import Output
from ibt_deploy.batch.tally import Tally


@dataclass(frozen=True)
class Setting:
    """What a worker is told first."""

    job: Job
    output: Output
    items: Items
    threads: int


@dataclass(frozen=True)
class Request:
    """A part to score; ``skipped`` as in :meth:`ibt_deploy.batch.items.Items.read`."""

    part: int
    skipped: dict[int, str]


@dataclass(frozen=True)
class Reading:
    """The worker is about to read the input at this place of its part."""

    place: int


@dataclass(frozen=True)
class Done:
    """The part is on disk."""

    tally: Tally


@dataclass(frozen=True)
class Failed:
    """The run cannot go on: a full disk, a folder that went away, a model that does not run."""

    message: str


@dataclass(frozen=True)
class Crashed:
    """Reading an input raised what no reader should raise, so that nobody knows what is left; it ends."""

    error: str


Report: TypeAlias = Reading | Done | Failed | Crashed
