"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Test networks are so small that a second thread slows them down; set before any test imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The time of an example depends on the machine's load.
settings.register_profile("ibt", deadline=None)
settings.load_profile("ibt")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real data sets, beside the repository; skips where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs ../shared/data, which is not here")
    return folder
