"""Open a graph on the CPU or a CUDA device, and check which of them it really runs on.

onnxruntime-gpu silently falls back to the CPU, prints to both streams when the CUDA libraries are missing,
and starts one thread per core of the machine, whatever the container may use. None of that may reach a user:
the device is checked after the session is open, the output is silenced, the threads are counted here.

Its official builds also report models and machine to the vendor and keep an identifier of the device in the
user's cache. Nothing about a patient or a hospital leaves the machine through this package: telemetry is
switched off before ONNX Runtime is imported (on Windows, where that is ignored, right after).

The CPUs and the memory that this process may use follow from its affinity mask and, on Linux, from its
control groups: a container or a systemd unit has less than the machine shows. A limit may be set in the
process's group or in any group above it, with cgroups v1 or v2.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ibt_deploy.bundle import Bundle
from ibt_deploy.errors import BundleError, DeviceError
from ibt_deploy.predictions import Model
from ibt_deploy.types import PARTS, Array, Float32s

if TYPE_CHECKING:
    import onnxruntime


MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_UNKNOWN_MEMORY = 2**33


def usable_cpus() -> int:
    """Whole number of CPUs that this process may use; 1 if it may use only part of one."""
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
    """Bytes of memory that this process may use, together with others under the same limit."""
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
    """Folders of the control groups that may limit this process, its own first, the topmost last.

    In a container the membership may name folders that only the host has; they cannot be read, and the
    container's limit is at the top.
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


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
LARGE_BLOCK, SLACK = 4 * 2**20, 16 * 2**20


def keep_small_blocks() -> None:
    """Have the C library keep freed blocks below 4 MiB for the next input; for processes that score many.

    By default glibc returns the arrays of a recording to the system and requests them again for the next one,
    which costs a fault for each page: a millisecond per recording. Conversely, one large block teaches it to
    keep all that are no larger. With other C libraries nothing is done.
    """
    mallopt = of_c_library("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_TRIM_THRESHOLD, SLACK)


@cache
def of_c_library(name: str) -> Callable[..., int] | None:
    """A function of the C library, or None if there is none of that name."""
    try:
        found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
    return found


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
        Bytes of the ONNX file.
    device
        ``"cpu"``; ``"cuda"``, which fails where CUDA does not work; ``"auto"``, CUDA where it works.
    threads
        CPU threads inside one operator. By default one for every usable CPU, at most 8: graphs of this size
        do not gain from more.

    Returns
    -------
    The session, and ``"cpu"`` or ``"cuda"``: the device actually used.

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
        raise DeviceError(f"the number of threads must be at least 1, not {threads}")
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
    """Exceptions of ONNX Runtime: a dozen classes with no common base but Exception."""
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
            # the graph is tried again on the CPU, which shows whether it is at fault
            return None
    return session if _CUDA in session.get_providers() else None


def driver_is_there() -> bool:
    """Whether an NVIDIA driver can be loaded at all; saves other machines the search for CUDA."""
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


FIXED_SCALES = "int8, static"
"""Note in the metadata of a graph whose activations have fixed scales."""


@dataclass(frozen=True, eq=False)
class OpenGraph:
    """A graph that is ready to run.

    Attributes
    ----------
    session
        The ONNX Runtime session.
    variant
        Precision, e.g. ``fp32``.
    device
        The device actually used.
    """

    session: onnxruntime.InferenceSession
    variant: str
    device: str

    @classmethod
    def of(cls, bundle: Bundle, *, device: Device, variant: str | None, threads: int | None) -> OpenGraph:
        """Open the graph of a bundle; raises BundleError or DeviceError."""
        session, used = open_session(bundle.graph(variant), device=device, threads=threads)
        _check_tensors(bundle, session)
        graph = cls(session, variant or bundle.default_variant, used)
        if PARTS[bundle.task].causal and graph.takes_scales_from_batch:
            raise BundleError(
                f"{bundle.path}: the variant {graph.variant!r} takes its scales from its inputs, so that "
                "later hours would change earlier answers; export the bundle again"
            )
        return graph

    @cached_property
    def takes_scales_from_batch(self) -> bool:
        """Whether an output depends on the other inputs of a batch, as in int8 without fixed scales."""
        if self.variant == "fp32":
            return False
        noted: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        return noted.get("precision") != FIXED_SCALES

    def run(self, outputs: list[str], inputs: dict[str, Array]) -> list[Array]:
        """Run the graph; only the named outputs are computed.

        Raises
        ------
        DeviceError
            When ONNX Runtime fails, most often because memory runs out.
        BundleError
            When an output is not finite.
        """
        try:
            found: list[Array] = self.session.run(outputs, inputs)
        except runtime_errors() as error:
            raise DeviceError(
                f"ONNX Runtime failed on {self.device}: {' '.join(str(error).split())}"
            ) from error
        if not all(np.isfinite(array).all() for array in found):
            raise BundleError(
                f"the graph's {', '.join(outputs)} are not finite, so the bundle cannot be used"
            )
        return found

    def empty_cache(self, batch: int) -> tuple[Float32s, Float32s]:
        """Keys and values before the first hour, shape ``(blocks, batch, heads, 0, size)`` each."""
        shapes = {node.name: node.shape for node in self.session.get_inputs()}
        blocks, _, heads, _, size = shapes["past_k"]
        nothing = np.zeros((blocks, batch, heads, 0, size), dtype=np.float32)
        return nothing, nothing

    def model(self, bundle: Bundle, operating_point: str) -> Model:
        """The description of this model in answers."""
        return Model(bundle.name, bundle.version, bundle.sha256, self.variant, operating_point, self.device)


def _check_tensors(bundle: Bundle, session: onnxruntime.InferenceSession) -> None:
    parts = PARTS[bundle.task]
    for required, optional, nodes, specs, word in (
        (parts.inputs, {}, session.get_inputs(), bundle.inputs, "inputs"),
        (parts.outputs, parts.optional_outputs, session.get_outputs(), bundle.outputs, "outputs"),
    ):
        found = {node.name: len(node.shape) for node in nodes}
        stated = {spec.name: len(spec.shape) for spec in specs}
        expected = dict(required) | {name: axes for name, axes in optional.items() if name in found}
        if found != expected or stated != expected:
            raise BundleError(
                f"{bundle.path}: the graph has the {word} {found}, the contract states {stated}, "
                f"a model for {bundle.task} has {expected} (tensor: number of axes)"
            )
