"""zstd and crc32c on a CUDA device, by nvCOMP: its low-level batched calls through ctypes.

These calls take the stream, the scratch memory and every address from the caller, allocate nothing and do not wait; the
Python package of nvCOMP does each of these otherwise. The signatures are those of ``nvcomp/zstd.h``, ``nvcomp/crc32.h`` and
``nvcomp/shared_types.h`` of nvCOMP 6; a test compares them with the headers that are installed.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from typing import Any, Final

from calib_gpu.backend.decoder import SUCCESS, Batch
from calib_gpu.backend.device import View
from calib_gpu.errors import ConfigError, DeviceLost

MAJOR: Final = 6
INSTALL: Final = "pip install 'calib-gpu[gds13]' (or gds12), or use --set gpu_reader=host"
ONLY_SEGMENT: Final = 0
"""nvcompCRC32OnlySegment: each message comes in one piece."""


class Properties(ctypes.Structure):
    """nvcompProperties_t."""

    _fields_ = [("version", ctypes.c_uint32), ("cudart_version", ctypes.c_uint32)]


class DecompressOptions(ctypes.Structure):
    """nvcompBatchedZstdDecompressOpts_t; zeros are the default backend."""

    _fields_ = [("backend", ctypes.c_int), ("reserved", ctypes.c_char * 60)]


class CrcSpec(ctypes.Structure):
    """nvcompCRC32Spec_t."""

    _fields_ = [
        ("poly", ctypes.c_uint32), ("init", ctypes.c_uint32), ("ref_in", ctypes.c_bool), ("ref_out", ctypes.c_bool),
        ("xorout", ctypes.c_uint32), ("reserved", ctypes.c_char * 16),
    ]  # fmt: skip


class CrcKernel(ctypes.Structure):
    """nvcompCRC32KernelConf_t."""

    _fields_ = [
        ("kernel_kind", ctypes.c_int), ("bytes_per_read", ctypes.c_int32), ("blocks_per_msg", ctypes.c_int32),
        ("reserved", ctypes.c_char * 20),
    ]  # fmt: skip


class CrcOptions(ctypes.Structure):
    """nvcompBatchedCRC32Opts_t."""

    _fields_ = [("spec", CrcSpec), ("kernel_conf", CrcKernel), ("reserved", ctypes.c_char * 64)]


CRC32C: Final = (0x1EDC6F41, 0xFFFFFFFF, True, True, 0xFFFFFFFF)
"""nvcompCRC32_C: the crc32c of Zarr."""

_size, _pointer = ctypes.c_size_t, ctypes.c_void_p
FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "nvcompGetProperties": (ctypes.POINTER(Properties),),
    "nvcompBatchedZstdDecompressGetTempSize": (
        _size, _size, DecompressOptions, ctypes.POINTER(_size), _size, _pointer
    ),
    "nvcompBatchedZstdDecompressAsync": (
        _pointer, _pointer, _pointer, _pointer, _size, _pointer, _size, _pointer, DecompressOptions, _pointer, _pointer,
    ),
    "nvcompBatchedCRC32GetHeuristicConf": (_pointer, _size, ctypes.POINTER(CrcKernel), _size, _pointer),
    "nvcompBatchedCRC32Async": (_pointer, _pointer, _size, _pointer, CrcOptions, ctypes.c_int, _pointer, _pointer),
}  # fmt: skip
"""Arguments of the calls, in their order; all return a status."""


def load_library() -> Any:
    """The library nvCOMP with its signatures; needs no GPU.

    Raises
    ------
    ConfigError
        It is not installed, or of another major version.
    """
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.libnvcomp") is None:
        raise ConfigError("nvCOMP is not installed", array="gpu_reader", rule="needs libnvcomp", fix=INSTALL)
    library = importlib.import_module("nvidia.libnvcomp").load_library()
    if library is None:
        raise ConfigError("libnvcomp cannot be loaded", array="gpu_reader", fix=INSTALL)
    missing = [name for name in FUNCTIONS if not hasattr(library, name)]
    if missing:
        raise ConfigError("libnvcomp lacks a call", array="gpu_reader", value=", ".join(missing), fix=INSTALL)
    for name, arguments in FUNCTIONS.items():
        getattr(library, name).argtypes, getattr(library, name).restype = arguments, ctypes.c_int
    library.nvcompGetStatusString.argtypes, library.nvcompGetStatusString.restype = (ctypes.c_int,), ctypes.c_char_p
    return library


class Nvcomp:
    """See :class:`calib_gpu.backend.decoder.Decoder`; blocks and streams are those of the CUDA device."""

    def __init__(self) -> None:
        self._library = load_library()
        properties = Properties()
        self._call("nvcompGetProperties", ctypes.byref(properties))
        self.version = f"{properties.version // 1000}.{properties.version % 1000 // 100}.{properties.version % 100}"
        if properties.version // 1000 != MAJOR:
            raise ConfigError(
                "another nvCOMP", array="gpu_reader", value=self.version, rule=f"nvCOMP {MAJOR}", fix=INSTALL
            )

    def describe(self) -> str:
        """The version."""
        return f"nvCOMP {self.version}"

    def address(self, block: Any) -> int:
        """Its device address."""
        return int(block.address)

    def scratch_bytes(self, n: int, content: int) -> int:
        """What nvCOMP asks for: about three times the content."""
        found = ctypes.c_size_t()
        self._call(
            "nvcompBatchedZstdDecompressGetTempSize", n, content, DecompressOptions(), ctypes.byref(found), n * content,
            None,
        )  # fmt: skip
        return found.value

    def checksums(self, batch: Batch, stream: Any) -> None:
        """crc32c of every frame."""
        kernel = CrcKernel()
        self._call("nvcompBatchedCRC32GetHeuristicConf", None, batch.n, ctypes.byref(kernel), batch.content, None)
        self._call(
            "nvcompBatchedCRC32Async", _at(batch.told("source")), _at(batch.told("size")), batch.n,
            _at(batch.answer("crc32c")), CrcOptions(CrcSpec(*CRC32C), kernel), ONLY_SEGMENT,
            _at(batch.answer("status")), stream.ptr,
        )  # fmt: skip

    def decode(self, batch: Batch, stream: Any) -> None:
        """All frames in one call."""
        scratch: Any = batch.scratch
        self._call(
            "nvcompBatchedZstdDecompressAsync", _at(batch.told("source")), _at(batch.told("size")),
            _at(batch.told("content")), _at(batch.answer("content")), batch.n, scratch.address, scratch.nbytes,
            _at(batch.told("target")), DecompressOptions(), _at(batch.answer("status")), stream.ptr,
        )  # fmt: skip

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != SUCCESS:
            text = self._library.nvcompGetStatusString(status).decode()
            raise DeviceLost(
                f"{name} fails", value=f"status {status}: {text}", rule=f"nvCOMP {getattr(self, 'version', '')}",
                fix="use --set gpu_reader=host",
            )  # fmt: skip


def _at(view: View) -> int:
    block: Any = view.block
    return int(block.address) + view.offset
