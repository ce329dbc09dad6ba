"""The C of a kernel to a shared library: without contraction, overflow wraps, FMA in hardware where there is one."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from calib_gpu.testing import compiler

_OPTIONS = ("-std=gnu11", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv", "-fno-math-errno", "-w",
            "-U_FORTIFY_SOURCE", "-shared", "-fPIC")  # fmt: skip


@cache
def _machine_options() -> tuple[str, ...]:
    """The results are the same with and without, but it is much faster."""
    info = Path("/proc/cpuinfo")
    has = platform.machine() == "x86_64" and info.exists() and {"fma", "avx2"} <= set(info.read_text().split())
    return ("-mavx2", "-mfma") if has else ()


def build(source: str, name: str) -> Path:
    """The shared library of a C source."""
    return compiler.build(source, "c", (*_OPTIONS, *_machine_options()), name, ("-lm",))
