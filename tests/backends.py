"""The backends that this machine can run: one body of tests runs on all of them."""

from __future__ import annotations

import functools

from calib_gpu import ConfigError
from calib_gpu.backend import BACKENDS, Backend
from calib_gpu.backend.on_device import DeviceBackend
from calib_gpu.testing.sim import SimDevice


@functools.cache
def make_backend(name: str) -> Backend:
    """An open backend, kept for all tests of the process."""
    return DeviceBackend(SimDevice()) if name == "sim" else BACKENDS[name]()


@functools.cache
def backend_names() -> list[str]:
    """NumPy, a simulated device, and CUDA where there is a GPU."""
    names = ["numpy", "sim"]
    try:
        make_backend("cupy")
    except ConfigError:
        return names
    return [*names, "cupy"]
