"""calib-gpu: raw counts of heterodyne array receivers (L0) to antenna temperatures T_A* (L1).

>>> import calib_gpu
>>> report = calib_gpu.calibrate("night.zarr", "calibrated.zarr", calib_gpu.Settings(eta_f=0.95))  # doctest: +SKIP
"""

from calib_gpu._version import __version__
from calib_gpu.errors import CalibError, ConfigError, OutputError, ScanFailure, StoreUnusable
from calib_gpu.pipeline import RunReport, calibrate
from calib_gpu.settings import Settings

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
]
