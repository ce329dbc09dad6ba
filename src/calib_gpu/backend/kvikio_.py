"""Files read to a CUDA device by kvikio: past the host's memory with GPUDirect Storage, through its own buffers without.

Reading only. Nothing is published through kvikio: what its Zarr store writes is not there at once or not at all, a killed
process leaves chunks cut short under their final names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calib_gpu.backend.decoder import Span
from calib_gpu.errors import ConfigError, DeviceLost

INSTALL = "pip install 'calib-gpu[gds13]' (or gds12), or use --set gpu_reader=nvcomp"


class KvikioFiles:
    """See :class:`calib_gpu.backend.decoder.DeviceFiles`; blocks are those of the CUDA device.

    Raises
    ------
    ConfigError
        kvikio is not installed, or cannot be loaded.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("kvikio") is None:
            raise ConfigError("kvikio is not installed", array="gpu_reader", value="kvikio", fix=INSTALL)
        try:
            import kvikio
            import kvikio.cufile_driver
        except (ImportError, OSError, RuntimeError) as error:
            raise ConfigError(
                "kvikio cannot be loaded", array="gpu_reader", value="kvikio", rule=str(error), fix=INSTALL
            ) from None
        self._open, self._version = kvikio.CuFile, kvikio.__version__
        self._direct = bool(kvikio.cufile_driver.get("is_gds_available"))

    def describe(self) -> str:
        """Version, and whether there is GPUDirect Storage."""
        return f"kvikio {self._version}, {'GPUDirect Storage' if self._direct else 'compatibility mode'}"

    def read(self, file: Path, spans: Sequence[Span], block: Any) -> None:
        """One blocking call a span in the calling thread: the workers are the threads."""
        from calib_gpu.backend.cupy_ import device_bytes

        try:
            with self._open(file, "r") as handle:
                for span in spans:
                    got = handle.raw_read(device_bytes(block, span.at, span.size), span.size, span.offset, 0)
                    if got != span.size:
                        raise OSError(f"{got} of {span.size} bytes at {span.offset}")
        except DeviceLost:
            raise
        except RuntimeError as error:  # what kvikio raises for all that fails
            raise OSError(f"kvikio: {error}") from None
