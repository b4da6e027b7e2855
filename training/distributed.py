"""One process or several: what ``torchrun`` tells a process about its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


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
        """Whether this process writes files and talks."""
        return self.rank == 0


@contextmanager
def process_group(device: str) -> Iterator[Place]:
    """Join the group that ``torchrun`` describes in the environment; without it, be alone."""
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
    finally:
        dist.destroy_process_group()
