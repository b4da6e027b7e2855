from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from ibt_deploy import device as module
from ibt_deploy.device import open_session, usable_cpus
from ibt_deploy.errors import DeviceError

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.fixture
def graph(ecg_bundle: Path) -> bytes:
    return (ecg_bundle / "model.onnx").read_bytes()


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with a driver, on which sessions get the providers that ``granted`` says."""

    def pretend(granted: list[str] | None, available: tuple[str, ...] = (CUDA, CPU)) -> None:
        def session(graph: bytes, options: Any, providers: list[Any], enable_fallback: int) -> Any:
            asked = [p if isinstance(p, str) else p[0] for p in providers]
            if granted is None and CUDA in asked:
                print("*** EP Error ***")
                raise RuntimeError("no CUDA")
            return SimpleNamespace(
                get_providers=lambda: [p for p in asked if granted is None or p in granted]
            )

        monkeypatch.setattr(module, "driver_is_there", lambda: True)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(available))
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("noise"), raising=False)
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)

    return pretend


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_cuda_is_used_where_it_works(pretended: Any, graph: bytes, device: Any) -> None:
    pretended([CUDA, CPU])
    assert open_session(graph, device=device)[1] == "cuda"


@pytest.mark.parametrize("granted", [[CPU], None])
def test_auto_falls_back_to_the_cpu_without_noise(
    pretended: Any, graph: bytes, granted: list[str] | None, capfd: pytest.CaptureFixture[str]
) -> None:
    pretended(granted)
    assert open_session(graph, device="auto")[1] == "cpu"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("granted", [[CPU], None])
def test_cuda_fails_loudly_where_onnxruntime_did_not_get_it(
    pretended: Any, graph: bytes, granted: list[str] | None
) -> None:
    pretended(granted)
    with pytest.raises(DeviceError, match="could not start it"):
        open_session(graph, device="cuda")


def test_cuda_fails_loudly_without_the_gpu_build(pretended: Any, graph: bytes) -> None:
    pretended([CPU], available=(CPU,))
    with pytest.raises(DeviceError, match="built without it"):
        open_session(graph, device="cuda")


def test_cuda_fails_loudly_without_a_driver(monkeypatch: pytest.MonkeyPatch, graph: bytes) -> None:
    monkeypatch.setattr(module, "driver_is_there", lambda: False)
    monkeypatch.setattr(module, "_cuda_session", lambda *_: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        open_session(graph, device="cuda")


def test_onnxruntime_is_silent_when_cuda_is_not_there(
    graph: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(DeviceError):
        open_session(graph, device="cuda")
    open_session(graph, device="auto")
    assert capfd.readouterr() == ("", "")


def test_threads_are_those_the_process_may_use(monkeypatch: pytest.MonkeyPatch, graph: bytes) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert 1 <= usable_cpus() <= 64
    session, _ = open_session(graph, device="cpu")
    assert session.get_session_options().intra_op_num_threads <= 8
    session, _ = open_session(graph, device="cpu", threads=3)
    assert session.get_session_options().intra_op_num_threads == 3


def test_scoring_reports_nothing_to_anybody_and_leaves_no_identifier(
    ecg_bundle: Path, tmp_path: Path
) -> None:
    unwanted = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI", "GITHUB_ACTIONS", "TF_BUILD")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    found = subprocess.run(
        [sys.executable, "-c", f"import ibt_deploy; ibt_deploy.load({str(ecg_bundle)!r}, device='cpu')"],
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stderr == ""
    assert list(tmp_path.iterdir()) == []
