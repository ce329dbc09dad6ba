"""Backends: the arithmetic on tiles behind one small protocol, and the registry that finds one by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from calib_gpu.backend.base import Backend
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.errors import ConfigError

BACKENDS: Final[dict[str, Callable[[], Backend]]] = {"numpy": NumpyBackend}


def get_backend(name: str) -> Backend:
    """The backend of that name; ``auto`` takes the fastest that this machine can run."""
    if name == "auto":
        name = "numpy"
    if name not in BACKENDS:
        raise ConfigError(
            "this version has no such backend", array="backend", value=name, rule=" | ".join(["auto", *BACKENDS]),
            fix="use --backend numpy; the CUDA backend is not part of this release",
        )  # fmt: skip
    return BACKENDS[name]()


__all__ = ["BACKENDS", "Backend", "get_backend"]
