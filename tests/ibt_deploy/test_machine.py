"""Control group limits, in the places where Linux, containers and systemd put them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ibt_deploy import device as machine
from ibt_deploy.device import usable_cpus, usable_memory

GIB = 2**30
Machine = Callable[..., None]


@pytest.fixture
def of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine of 64 CPUs and as much memory as this one, with the given files of control groups."""

    def made(membership: str | None, **files: str) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
        monkeypatch.setattr(machine, "MOUNT", tmp_path)
        monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "membership")
        if membership is not None:
            (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return made


def test_without_limits_everything_is_usable(of: Machine) -> None:
    of("0::/\n", **{"cpu.max": "max 100000\n", "memory.max": "max\n"})
    assert usable_cpus() == 64
    assert usable_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_container_sees_its_limits_at_the_top(of: Machine) -> None:
    of("0::/\n", **{"cpu.max": "400000 100000\n", "memory.max": f"{2 * GIB}\n"})
    assert (usable_cpus(), usable_memory()) == (4, 2 * GIB)


def test_a_unit_has_limits_in_a_group_of_its_own(of: Machine) -> None:
    of(
        "0::/system.slice/ibt.service\n",
        **{"system.slice/ibt.service/cpu.max": "300000 100000\n", "system.slice/memory.max": f"{GIB}\n"},
        **{"system.slice/ibt.service/memory.max": f"{3 * GIB}\n"},
    )
    assert (usable_cpus(), usable_memory()) == (3, GIB), "the tightest of a group and those above it"


def test_version_1_has_a_folder_for_each_controller(of: Machine) -> None:
    of(
        "4:memory:/docker/0123\n2:cpu,cpuacct:/docker/0123\n0::/\n",
        **{"memory/memory.limit_in_bytes": f"{GIB}\n", "cpu/cpu.cfs_quota_us": "250000\n"},
        **{"cpu/cpu.cfs_period_us": "100000\n"},
    )
    assert (usable_cpus(), usable_memory()) == (2, GIB), "the host's folders are not there in a container"


def test_version_1_says_minus_one_for_no_limit(of: Machine) -> None:
    of("2:cpu:/\n", **{"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"})
    assert usable_cpus() == 64


def test_part_of_a_cpu_is_one(of: Machine) -> None:
    of("0::/\n", **{"cpu.max": "50000 100000\n"})
    assert usable_cpus() == 1


@pytest.mark.parametrize(
    "membership",
    [None, "", "odd\n", "0::/../elsewhere\n"],
    ids=["unreadable", "empty", "of another form", "outside"],
)
def test_where_the_group_is_not_known_the_top_counts(of: Machine, membership: str | None) -> None:
    of(membership, **{"cpu.max": "200000 100000\n"})
    assert usable_cpus() == 2
