"""The backends that one body of tests runs on.

``numpy`` is the reference; ``sim`` is the device path on a simulated device whose kernels are NumPy models; ``ptx`` the same
with the kernels' PTX run on the CPU; ``g++`` with the kernels compiled by g++ under sanitizers; ``cupy`` is a GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil

import pytest

from calib_gpu import ConfigError
from calib_gpu.backend import BACKENDS, Backend
from calib_gpu.backend.on_device import DeviceBackend

NAMES = (
    "numpy",
    "sim",
    pytest.param("ptx", marks=pytest.mark.kernels),
    pytest.param("g++", marks=[pytest.mark.kernels, pytest.mark.slow]),
    pytest.param("cupy", marks=pytest.mark.gpu),
)


def why_no_ptx() -> str:
    """Why PTX cannot be run here; empty if it can."""
    missing = [name for name in ("cupy",) if importlib.util.find_spec(name) is None]
    missing += [name for name in ("gcc",) if shutil.which(name) is None]
    if missing:
        return f"not run: needs {', '.join(missing)}"
    from calib_gpu.testing.nvrtc import libraries

    return "" if libraries() else "not run: needs NVRTC"


@functools.cache
def make_backend(name: str) -> Backend:
    """An open backend, kept for all tests of the process; skips where this machine has not got it."""
    if name == "sim":
        from calib_gpu.testing.sim import SimDevice

        return DeviceBackend(SimDevice())
    if name == "g++":
        if shutil.which("g++") is None:
            pytest.skip("not run: needs g++")
        from calib_gpu.testing.host_kernels import run_host
        from calib_gpu.testing.sim import SimDevice

        return DeviceBackend(SimDevice(execute=run_host))
    if name == "ptx":
        if reason := why_no_ptx():
            pytest.skip(reason)
        from calib_gpu.testing.compiled_kernels import run_ptx
        from calib_gpu.testing.sim import SimDevice

        return DeviceBackend(SimDevice(execute=run_ptx))
    try:
        return BACKENDS[name]()
    except ConfigError as error:
        pytest.skip(f"not run on a GPU: {error.what}")


@functools.cache
def has_gpu() -> bool:
    """True where the CUDA backend can be opened."""
    try:
        BACKENDS["cupy"]().close()
    except ConfigError:
        return False
    return True
