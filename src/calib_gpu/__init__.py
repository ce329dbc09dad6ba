"""calib-gpu: raw counts of heterodyne array receivers (L0) to antenna temperatures T_A* (L1).

>>> import calib_gpu
>>> report = calib_gpu.calibrate("night.zarr", "calibrated.zarr", calib_gpu.Settings(eta_f=0.95))  # doctest: +SKIP
>>> scan = calib_gpu.open_l1("calibrated.zarr", 25650)  # doctest: +SKIP
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from calib_gpu._version import __version__
from calib_gpu.errors import CalibError, ConfigError, OutputError, ScanFailure, StoreUnusable

if TYPE_CHECKING:
    from calib_gpu.pipeline import RunReport, calibrate
    from calib_gpu.settings import Settings
    from calib_gpu.view import open_l1

logging.getLogger("calib_gpu").addHandler(logging.NullHandler())  # who uses the library says where log lines go

__all__ = [
    "CalibError",
    "ConfigError",
    "OutputError",
    "RunReport",
    "ScanFailure",
    "Settings",
    "StoreUnusable",
    "__version__",
    "calibrate",
    "open_l1",
]

_AT_FIRST_USE = {
    "RunReport": "calib_gpu.pipeline",
    "Settings": "calib_gpu.settings",
    "calibrate": "calib_gpu.pipeline",
    "open_l1": "calib_gpu.view",
}
"""Names whose modules are imported when they are asked for: ``calib-gpu --help`` needs no NumPy."""


def __getattr__(name: str) -> Any:
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_AT_FIRST_USE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_AT_FIRST_USE})
