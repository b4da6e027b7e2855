"""Where a graph runs: open an ONNX Runtime session on the CPU or on a CUDA device, and say which it became.

onnxruntime-gpu falls back to the CPU by itself, prints to both streams when the CUDA libraries are missing,
and starts one thread per core of the machine, whatever the container may use. None of that may reach a user:
the device is checked after the session is open, the noise is silenced, the threads are counted here.

Its official builds also report models and machine to their maker and keep an identifier of the device in the
user's cache. Nothing about a patient or a hospital leaves the machine through this package: reporting is
switched off before ONNX Runtime is imported (on Windows, where that is ignored, right after).
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from typing import TYPE_CHECKING, Literal

from ibt_deploy.errors import BundleError, DeviceError
from ibt_deploy.machine import usable_cpus

if TYPE_CHECKING:
    import onnxruntime

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_MOST_THREADS = 8
_FATAL = 4

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when onnxruntime is imported


def open_session(
    graph: bytes, *, device: Device = "auto", threads: int | None = None
) -> tuple[onnxruntime.InferenceSession, str]:
    """Open a session for an ONNX graph.

    Parameters
    ----------
    graph
        The ONNX file's bytes.
    device
        ``"cpu"``; ``"cuda"``, which fails where CUDA does not work; ``"auto"``, CUDA where it works.
    threads
        CPU threads inside one operator. By default one for every usable CPU, at most 8: graphs of this size
        do not gain from more.

    Returns
    -------
    The session, and ``"cpu"`` or ``"cuda"``: the device it really got.

    Raises
    ------
    DeviceError
        When CUDA was asked for and ONNX Runtime did not get it.
    BundleError
        When the graph cannot be loaded.
    """
    import onnxruntime as ort

    if device not in DEVICES:
        raise DeviceError(f"device {device!r} is none of {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise DeviceError(f"{threads} threads cannot work; give 1 or more")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or min(usable_cpus(), _MOST_THREADS)
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    ort.set_default_logger_severity(_FATAL)
    ort.disable_telemetry_events()
    if device == "cuda" or (device == "auto" and driver_is_there()):
        session = _cuda_session(graph, options)
        if session is not None:
            return session, "cuda"
        if device == "cuda":
            raise DeviceError(_why_no_cuda())
    return _session(graph, options, [_CPU]), "cpu"


def runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: a dozen classes without a common base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = [e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception)]
    return (*found, RuntimeError, ValueError)


def _session(
    graph: bytes, options: onnxruntime.SessionOptions, providers: list[str | tuple[str, dict[str, str]]]
) -> onnxruntime.InferenceSession:
    import onnxruntime as ort

    try:
        return ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except runtime_errors() as error:
        line = " ".join(str(error).split())
        raise BundleError(f"ONNX Runtime cannot load the graph: {line}") from error


def _cuda_session(graph: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession | None:
    """A session that runs on CUDA, or None."""
    import onnxruntime as ort

    if _CUDA not in ort.get_available_providers():
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        try:
            # TF32 keeps 10 bits of mantissa, which breaks parity with the CPU
            session = _session(graph, options, [(_CUDA, {"use_tf32": "0"}), _CPU])
        except BundleError:
            # the graph itself is tried again on the CPU, which tells whether it is at fault
            return None
    return session if _CUDA in session.get_providers() else None


def driver_is_there() -> bool:
    """Whether an NVIDIA driver can be loaded at all; spares everybody else the search for CUDA."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _why_no_cuda() -> str:
    import onnxruntime as ort

    if _CUDA not in ort.get_available_providers():
        reason = "this onnxruntime is built without it; install onnxruntime-gpu"
    elif not driver_is_there():
        reason = "there is no NVIDIA driver on this machine"
    else:
        reason = (
            "ONNX Runtime could not start it: CUDA or cuDNN libraries are missing or of another version; "
            "pip install 'onnxruntime-gpu[cuda,cudnn]' brings them"
        )
    return f"CUDA was asked for, but {reason} (or use --device cpu)"
