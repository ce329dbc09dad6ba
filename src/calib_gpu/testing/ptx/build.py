"""C to a shared library, built once: the cache is keyed by the source, the compiler and its options."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from calib_gpu.testing.ptx.errors import PtxError

_OPTIONS = ("-std=gnu11", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv", "-fno-math-errno", "-w",
            "-U_FORTIFY_SOURCE", "-shared", "-fPIC")  # fmt: skip


def cache_folder() -> Path:
    """Where built kernels are kept: CALIB_GPU_PTX_CACHE, or the user's cache folder."""
    given = os.environ.get("CALIB_GPU_PTX_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calib-gpu" / "ptx"


@cache
def compiler() -> str:
    """The path of the C compiler; PtxError where there is none."""
    found = shutil.which(os.environ.get("CC", "gcc"))
    if found is None:
        raise PtxError("no C compiler", fix="install gcc, or name a compiler that takes its options in CC")
    return found


@cache
def _version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout


@cache
def _machine_options() -> tuple[str, ...]:
    """FMA in hardware where the processor has it: the same results, much faster."""
    info = Path("/proc/cpuinfo")
    has = platform.machine() == "x86_64" and info.exists() and {"fma", "avx2"} <= set(info.read_text().split())
    return ("-mavx2", "-mfma") if has else ()


def build(source: str, name: str) -> Path:
    """The shared library of a C source; a source that was built before is not built again."""
    options = (*_OPTIONS, *_machine_options())
    key = hashlib.sha256("\0".join((source, _version(), *options)).encode()).hexdigest()[:32]
    folder = cache_folder()
    library = folder / f"{key}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        c_file, made = Path(work) / "kernel.c", Path(work) / "kernel.so"
        c_file.write_text(source)
        command = [compiler(), *options, str(c_file), "-o", str(made), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PtxError("the C of the kernel does not compile", array=name, value=done.stderr[:2000])
        os.replace(made, library)
    return library
