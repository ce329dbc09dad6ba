"""Backends: the arithmetic on tiles behind one small protocol, and the registry that finds one by name."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from typing import Final

import numpy as np

from calib_gpu.backend.base import Backend
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.errors import ConfigError

HOST: Final = "numpy"


def _cuda() -> Backend:
    """The CUDA backend; importing it costs half a second, so that only those who ask for it pay."""
    if importlib.util.find_spec("cupy") is None:
        raise ConfigError(
            "CuPy is not installed", array="backend", value="cupy", rule="the CUDA backend needs CuPy and a GPU",
            fix="pip install 'calib-gpu[cuda13]' (or cuda12), or use --backend numpy",
        )  # fmt: skip
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise ConfigError(
            "no usable GPU", array="backend", value="cupy", rule=f"the NVIDIA driver: {error}",
            fix="see calib-gpu doctor; --backend numpy runs without a GPU",
        ) from None  # fmt: skip
    try:
        from calib_gpu.backend.cupy_ import CupyDevice
        from calib_gpu.backend.on_device import DeviceBackend

        backend = DeviceBackend(CupyDevice())
        one = np.ones((1, 1))
        backend.sky_signal(one, one, one)  # a kernel is compiled and run: what is broken shows here, not in every scan
    except ConfigError:
        raise
    except Exception as error:  # a GPU that is full or taken, a broken CuPy, no NVRTC
        raise ConfigError(
            "no usable GPU", array="backend", value="cupy", rule=f"{type(error).__name__}: {error}",
            fix="see calib-gpu doctor; --backend numpy runs without a GPU",
        ) from None  # fmt: skip
    return backend


BACKENDS: Final[dict[str, Callable[[], Backend]]] = {HOST: NumpyBackend, "cupy": _cuda}


def get_backend(name: str) -> Backend:
    """The backend of that name; ``auto`` takes the GPU where there is one.

    Raises
    ------
    ConfigError
        There is no such backend, or this machine cannot run it.
    """
    return choose_backend(name)[0]


def choose_backend(name: str) -> tuple[Backend, str]:
    """The backend of that name, and why it was taken."""
    if name == "auto":
        try:
            return BACKENDS["cupy"](), "auto: a GPU is there"
        except ConfigError as error:
            return BACKENDS[HOST](), f"auto: {error.what}"
    if name not in BACKENDS:
        raise ConfigError("no such backend", array="backend", value=name, rule=" | ".join(["auto", *BACKENDS]))
    return BACKENDS[name](), "asked for"


__all__ = ["BACKENDS", "HOST", "Backend", "choose_backend", "get_backend"]
