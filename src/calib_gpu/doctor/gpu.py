"""GPUs and their driver, asked through the driver's own library: no CUDA package is needed to look."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from calib_gpu.backend import BACKENDS, get_backend
from calib_gpu.doctor import Finding
from calib_gpu.errors import ConfigError


def gpu() -> list[Finding]:
    """Driver, devices, and whether this release makes use of them."""
    own = [_backends()]
    if set(BACKENDS) == {"numpy"}:
        cost = "this release calculates on the processor, with or without a GPU"
        own = [Finding("GPU", "backends", "numpy", "missing", cost)]
    return [*own, *_driver()]


def _backends() -> Finding:
    """Those that can run here: each is opened once."""
    usable, lacking = [], []
    for name in BACKENDS:
        try:
            get_backend(name).close()
            usable.append(name)
        except ConfigError as error:
            lacking.append(f"{name}: {error.what} ({error.rule})")
    cost = f"the processor does the arithmetic; {'; '.join(lacking)}" if lacking else ""
    return Finding("GPU", "backends", ", ".join(usable), "missing" if lacking else "ok", cost)


def _driver() -> list[Finding]:
    version = _version(Path("/sys/module/nvidia/version"))
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        cost = "no GPU can be used: install the NVIDIA driver (in a container: run it with the GPU passed through)"
        return [Finding("GPU", "driver", version or "no libcuda.so.1", "missing", cost)]
    status = cuda.cuInit(0)
    if status:
        cost = "no GPU can be used: see nvidia-smi (in a container: is the GPU passed through?)"
        return [Finding("GPU", "driver", f"{version or 'there'}, but cuInit fails with {status}", "missing", cost)]
    number = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    runtime = f"up to CUDA {number.value // 1000}.{number.value % 1000 // 10}"
    return [Finding("GPU", "driver", f"{version} ({runtime})" if version else runtime), *_devices(cuda)]


def _devices(cuda: Any) -> list[Finding]:
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    if not count.value:
        return [Finding("GPU", "devices", "none", "missing", "no GPU to be used: is CUDA_VISIBLE_DEVICES set?")]
    found = []
    for k in range(count.value):
        device, name, size = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
        cuda.cuDeviceGet(ctypes.byref(device), k)
        cuda.cuDeviceGetName(name, len(name), device)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        capability = []
        for attribute in (75, 76):  # compute capability, major and minor
            value = ctypes.c_int()
            cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            capability.append(str(value.value))
        about = f"{name.value.decode(errors='replace')}, {size.value / 2**30:.0f} GiB, sm_{''.join(capability)}"
        found.append(Finding("GPU", f"device {k}", about))
    return found


def _version(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
