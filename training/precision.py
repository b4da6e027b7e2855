"""Which device and number format a run computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from ibt_deploy.errors import DeviceError


def chosen_device(name: str, local_rank: int = 0) -> torch.device:
    """``auto`` takes CUDA where there is one; ``cuda`` without one is an error."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError("cuda was asked for, but this PyTorch sees no CUDA device")
        return torch.device("cuda", local_rank)
    return torch.device(name)


def chosen_dtype(precision: str, device: torch.device) -> torch.dtype:
    """``auto`` means bf16 on CUDA and on CPUs with bf16 instructions, where it was measured to be faster."""
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16
        fast = "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _cpu_flags() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to ``dtype``, or nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
