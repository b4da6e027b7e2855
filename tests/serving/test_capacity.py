"""Default numbers of processes and threads."""

from __future__ import annotations

import pytest

from serving import settings as capacity
from serving.settings import BYTES_PER_WORKER, default_threads, default_workers

GIB = 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "usable_cpus", lambda: 8)
    monkeypatch.setattr(capacity, "usable_memory", lambda: 64 * GIB)
    monkeypatch.setattr(capacity, "driver_is_there", lambda: False)


@pytest.mark.usefixtures("machine")
def test_a_process_for_each_cpu() -> None:
    assert default_workers("auto") == 8
    assert default_threads(8) == 1


@pytest.mark.usefixtures("machine")
def test_stated_threads_leave_room_for_fewer_processes() -> None:
    assert default_workers("cpu", threads=2) == 4
    assert default_workers("cpu", threads=16) == 1


@pytest.mark.usefixtures("machine")
def test_little_memory_has_fewer_processes_of_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "usable_memory", lambda: 3 * BYTES_PER_WORKER)
    assert default_workers("cpu") == 3
    assert default_threads(3) == 3
    monkeypatch.setattr(capacity, "usable_memory", lambda: BYTES_PER_WORKER // 2)
    assert default_workers("cpu") == 1


@pytest.mark.usefixtures("machine")
def test_processes_share_a_gpu() -> None:
    assert default_workers("cuda") == 2
    assert default_workers("cuda", threads=1) == 2
    assert default_workers("cuda", threads=8) == 1
