"""Fixtures of the scoring tests: two tiny bundles, and predictors on them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.bundles import write_ecg_bundle, write_stay_bundle

from ibt_deploy.predictor import Predictor, load


@pytest.fixture(scope="session")
def ecg_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny arrhythmia bundle; not to be changed, see ``ecg_copy``."""
    return write_ecg_bundle(tmp_path_factory.mktemp("bundles") / "arrhythmia")


@pytest.fixture(scope="session")
def stay_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sepsis bundle; not to be changed, see ``stay_copy``."""
    return write_stay_bundle(tmp_path_factory.mktemp("bundles") / "sepsis")


@pytest.fixture
def ecg_copy(ecg_bundle: Path, tmp_path: Path) -> Path:
    """An arrhythmia bundle to spoil."""
    return Path(shutil.copytree(ecg_bundle, tmp_path / "arrhythmia"))


@pytest.fixture
def stay_copy(stay_bundle: Path, tmp_path: Path) -> Path:
    """A sepsis bundle to spoil."""
    return Path(shutil.copytree(stay_bundle, tmp_path / "sepsis"))


@pytest.fixture(scope="session")
def ecg(ecg_bundle: Path) -> Predictor:
    """A predictor for recordings."""
    return load(ecg_bundle, device="cpu", threads=1)


@pytest.fixture(scope="session")
def stays(stay_bundle: Path) -> Predictor:
    """A predictor for stays."""
    return load(stay_bundle, device="cpu", threads=1)
