"""Where a graph runs: open an ONNX Runtime session on the CPU or on a CUDA device, and say which it became.

onnxruntime-gpu falls back to the CPU by itself, prints to both streams when the CUDA libraries are missing,
and starts one thread per core of the machine, whatever the container may use. None of that may reach a user:
the device is checked after the session is open, the noise is silenced, the threads are counted here.

Its official builds also report models and machine to their maker and keep an identifier of the device in the
user's cache. Nothing about a patient or a hospital leaves the machine through this package: reporting is
switched off before ONNX Runtime is imported (on Windows, where that is ignored, right after).

The CPUs and the memory that this process may use follow from its affinity mask and, on Linux, from its
control groups: a container or a unit of systemd has less than the machine shows. A limit may stand in the
group of the process or in any group above it, in version 1 of the interface or in version 2.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ibt_deploy.errors import BundleError, DeviceError

if TYPE_CHECKING:
    import onnxruntime


MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_UNKNOWN_MEMORY = 2**33


def usable_cpus() -> int:
    """CPUs that this process may use, in whole: 1 where it may use a part of one."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    for group in _groups("cpu"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            cpus = min(cpus, int(quota) // int(period))
        with contextlib.suppress(OSError, ValueError):
            allowed, within = (_number(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            cpus = min(cpus, allowed // within if allowed > 0 else cpus)
    return max(1, cpus)


def usable_memory() -> int:
    """Bytes of memory that this process may use, together with those that share its limit."""
    try:
        most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # Windows
        most = _UNKNOWN_MEMORY
    for group in _groups("memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                most = min(most, _number(group / name))
    return most


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the groups that may limit this process, its own first, the topmost last.

    In a container the membership may name folders that only the host has; they cannot be read, and the
    container's limit stands at the top.
    """
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    for line in [line for line in lines if line.count(":") > 1] or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = MOUNT / controller if controllers else MOUNT
        own = top / path.lstrip("/")
        if ".." not in own.parts:
            yield from (group for group in (own, *own.parents) if top in group.parents)
        yield top


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
