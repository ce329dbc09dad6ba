"""The machine that was measured, in words and numbers."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from calib_gpu._version import __version__
from calib_gpu.workers import usable_cores

PACKAGES: Final = ("numpy", "zarr", "numcodecs", "xarray", "dask", "tensorstore")


def describe_machine(work: Path) -> dict[str, Any]:
    """Processor, cores, memory, kernel, versions, and the file system on which ``work`` lies."""
    return {
        "cpu": _after("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": usable_cores(),
        "memory_gib": round(_kib("MemTotal") / 2**20, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "calib-gpu": __version__,
        **{name: _version(name) for name in PACKAGES},
        "file_system": file_system(work),
        "disk_free_gb": round(shutil.disk_usage(work).free / 1e9),
    }


def available_memory() -> int:
    """Bytes of memory that can be had without swapping."""
    return _kib("MemAvailable") * 1024


def file_system(path: Path) -> str:
    """Type of the file system of a path: that of the longest mount point above it."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, found = line.split()[:3]
        inside = str(path.resolve() / "").startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _kib(name: str) -> int:
    text = _after("/proc/meminfo", name)
    return int(text.split()[0]) if text else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024


def _after(path: str, name: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
