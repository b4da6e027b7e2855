"""Fixtures of the training tests: one thread, and small caches and teachers made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.tiny import ecg_cache, stay_cache, tiny_recipe

from training.run import train


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def ecgs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ecg_cache(tmp_path_factory.mktemp("tiny") / "ecg")


@pytest.fixture(scope="session")
def stays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stay_cache(tmp_path_factory.mktemp("tiny") / "stays")


@pytest.fixture(scope="session")
def ecg_teacher(ecgs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "teacher"
    train(tiny_recipe("arrhythmia", "teacher"), ecgs, out, device="cpu")
    return out / "best.pt"


@pytest.fixture(scope="session")
def stay_teacher(stays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "teacher"
    train(tiny_recipe("sepsis", "teacher"), stays, out, device="cpu")
    return out / "best.pt"
