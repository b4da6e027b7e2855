"""Small data sets and untrained students: enough to build a whole bundle in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.exports import SETTINGS, reseal, untrained
from helpers.tiny import ecg_cache, stay_cache

from export.build import Data, External, Run, build_bundle, open_data, open_external
from export.graph import graph_of
from export.stay import StayPart
from training.models import Encoder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _one_export_of_each_student() -> Iterator[None]:
    """Exporting takes longer than all the rest of a small build, and equal networks give equal graphs."""
    done: dict[tuple[Any, ...], onnx.ModelProto] = {}

    def remembered(network: Encoder, *rest: Any) -> onnx.ModelProto:
        *sizes, metadata, opset = rest
        key = (*sizes, opset, *metadata.values())
        if key not in done:
            done[key] = graph_of(network, *rest)
        return done[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.build.graph_of", remembered)
        yield


@pytest.fixture(scope="session")
def ecgs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ecg_cache(tmp_path_factory.mktemp("caches") / "ecgs", 100, leads=12)


@pytest.fixture(scope="session")
def stays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stay_cache(tmp_path_factory.mktemp("caches") / "stays", 60)


@pytest.fixture(scope="session")
def ecg_data(ecgs: Path) -> Data:
    return open_data(ecgs)


@pytest.fixture(scope="session")
def stay_data(stays: Path) -> Data:
    return open_data(stays)


@pytest.fixture(scope="session")
def foreign_ecgs(tmp_path_factory: pytest.TempPathFactory, ecg_data: Data) -> External:
    """Twenty recordings of another place."""
    folder = ecg_cache(tmp_path_factory.mktemp("caches") / "foreign", 20, leads=12, seed=1)
    index = folder / "index.csv"
    index.write_text(index.read_text().replace("R00", "X00"))
    reseal(folder)
    return open_external("elsewhere", folder, ecg_data)


@pytest.fixture(scope="session")
def foreign_stays(tmp_path_factory: pytest.TempPathFactory, stay_data: Data) -> External:
    """Twenty stays of another place, without labels."""
    folder = stay_cache(tmp_path_factory.mktemp("caches") / "foreign-stays", 20, seed=1)
    index = folder / "index.csv"
    index.write_text(index.read_text().replace("p0", "x0"))
    reseal(folder)
    found = open_external("elsewhere", folder, stay_data)
    assert isinstance(found.part, StayPart)
    return replace(found, part=replace(found.part, labels=np.full_like(found.part.labels, -1)))


@pytest.fixture(scope="session")
def ecg_student(ecgs: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.of(untrained("arrhythmia", "bbm", ecgs, tmp_path_factory.mktemp("runs") / "student"))


@pytest.fixture(scope="session")
def ecg_teacher(ecgs: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.of(untrained("arrhythmia", "teacher", ecgs, tmp_path_factory.mktemp("runs") / "teacher"))


@pytest.fixture(scope="session")
def stay_student(stays: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.of(untrained("sepsis", "bbm", stays, tmp_path_factory.mktemp("runs") / "student"))


@pytest.fixture(scope="session")
def stay_teacher(stays: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.of(untrained("sepsis", "teacher", stays, tmp_path_factory.mktemp("runs") / "teacher"))


@pytest.fixture(scope="session")
def ecg_bundle(
    ecg_student: Run,
    ecg_teacher: Run,
    ecg_data: Data,
    foreign_ecgs: External,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "arrhythmia"
    build_bundle(ecg_student, ecg_data, out, SETTINGS, teacher=ecg_teacher, externals=[foreign_ecgs])
    return out


@pytest.fixture(scope="session")
def stay_bundle(
    stay_student: Run,
    stay_teacher: Run,
    stay_data: Data,
    foreign_stays: External,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "sepsis"
    build_bundle(stay_student, stay_data, out, SETTINGS, teacher=stay_teacher, externals=[foreign_stays])
    return out
