"""zstd (both ways) and crc32c on a CUDA device, by nvCOMP: its low-level batched calls through ctypes.

These calls take the stream, the scratch memory and every address from the caller, allocate nothing and do not wait; the
Python package of nvCOMP does each of these otherwise. The signatures are those of ``nvcomp/zstd.h``, ``nvcomp/crc32.h`` and
``nvcomp/shared_types.h`` of nvCOMP 6; a test compares them with the headers that are installed.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from typing import Any, Final, NamedTuple

from calib_gpu.backend.decoder import SUCCESS, Batch
from calib_gpu.backend.device import View
from calib_gpu.backend.encoder import Chunks
from calib_gpu.errors import ConfigError, DeviceLost

MAJOR: Final = 6
ONLY_SEGMENT: Final = 0
"""nvcompCRC32OnlySegment: each message comes in one piece."""


class Use(NamedTuple):
    """What it is loaded for: the setting, and what to do without."""

    setting: str
    instead: str

    def fix(self) -> str:
        """What the user can do where it is not there."""
        return f"pip install 'calib-gpu[gds13]' (or gds12), or {self.instead}"


DECODING: Final = Use("gpu_reader", "use --set gpu_reader=host")
ENCODING: Final = Use("codec", "use --codec zstd")


class Properties(ctypes.Structure):
    """nvcompProperties_t."""

    _fields_ = [("version", ctypes.c_uint32), ("cudart_version", ctypes.c_uint32)]


class DecompressOptions(ctypes.Structure):
    """nvcompBatchedZstdDecompressOpts_t; zeros are the default backend."""

    _fields_ = [("backend", ctypes.c_int), ("reserved", ctypes.c_char * 60)]


class CompressOptions(ctypes.Structure):
    """nvcompBatchedZstdCompressOpts_t."""

    _fields_ = [("reserved", ctypes.c_char * 64)]


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
    "nvcompBatchedZstdCompressGetMaxOutputChunkSize": (_size, CompressOptions, ctypes.POINTER(_size)),
    "nvcompBatchedZstdCompressGetTempSize": (_size, _size, CompressOptions, ctypes.POINTER(_size), _size, _pointer),
    "nvcompBatchedZstdCompressAsync": (
        _pointer, _pointer, _size, _size, _pointer, _size, _pointer, _pointer, CompressOptions, _pointer, _pointer,
    ),
    "nvcompBatchedCRC32GetHeuristicConf": (_pointer, _size, ctypes.POINTER(CrcKernel), _size, _pointer),
    "nvcompBatchedCRC32Async": (_pointer, _pointer, _size, _pointer, CrcOptions, ctypes.c_int, _pointer, _pointer),
}  # fmt: skip
"""Arguments of the calls, in their order; all return a status."""


def load_library(use: Use) -> Any:
    """The library nvCOMP with its signatures; needs no GPU.

    Raises
    ------
    ConfigError
        It is not installed, or of another major version.
    """
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.libnvcomp") is None:
        raise ConfigError("nvCOMP is not installed", array=use.setting, rule="needs libnvcomp", fix=use.fix())
    library = importlib.import_module("nvidia.libnvcomp").load_library()
    if library is None:
        raise ConfigError("libnvcomp cannot be loaded", array=use.setting, fix=use.fix())
    missing = [name for name in FUNCTIONS if not hasattr(library, name)]
    if missing:
        raise ConfigError("libnvcomp lacks a call", array=use.setting, value=", ".join(missing), fix=use.fix())
    for name, arguments in FUNCTIONS.items():
        getattr(library, name).argtypes, getattr(library, name).restype = arguments, ctypes.c_int
    library.nvcompGetStatusString.argtypes, library.nvcompGetStatusString.restype = (ctypes.c_int,), ctypes.c_char_p
    return library


class _Library:
    """What its uses share; blocks and streams are those of the CUDA device."""

    use: Use

    def __init__(self) -> None:
        self._library = load_library(self.use)
        properties = Properties()
        self._call("nvcompGetProperties", ctypes.byref(properties))
        self.version = f"{properties.version // 1000}.{properties.version % 1000 // 100}.{properties.version % 100}"
        if properties.version // 1000 != MAJOR:
            raise ConfigError(
                "another nvCOMP", array=self.use.setting, value=self.version, rule=f"nvCOMP {MAJOR}",
                fix=self.use.fix(),
            )  # fmt: skip

    def describe(self) -> str:
        """The version."""
        return f"nvCOMP {self.version}"

    def address(self, block: Any) -> int:
        """Its device address."""
        return int(block.address)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != SUCCESS:
            text = self._library.nvcompGetStatusString(status).decode()
            raise DeviceLost(
                f"{name} fails", value=f"status {status}: {text}", rule=f"nvCOMP {getattr(self, 'version', '')}",
                fix=self.use.instead,
            )  # fmt: skip


class Nvcomp(_Library):
    """See :class:`calib_gpu.backend.decoder.Decoder`."""

    use = DECODING

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


class NvcompEncoder(_Library):
    """See :class:`calib_gpu.backend.encoder.Encoder`."""

    use = ENCODING

    def frame_bound(self, content: int) -> int:
        """What nvCOMP says; needs no GPU."""
        found = ctypes.c_size_t()
        self._call(
            "nvcompBatchedZstdCompressGetMaxOutputChunkSize", content, CompressOptions(), ctypes.byref(found)
        )  # fmt: skip
        return found.value

    def scratch_bytes(self, n: int, content: int) -> int:
        """What nvCOMP asks for on this GPU: about six times the content."""
        found = ctypes.c_size_t()
        self._call(
            "nvcompBatchedZstdCompressGetTempSize",
            n,
            content,
            CompressOptions(),
            ctypes.byref(found),
            n * content,
            None,
        )
        return found.value

    def encode(self, chunks: Chunks, stream: Any) -> None:
        """All chunks in one call."""
        scratch: Any = chunks.scratch
        self._call(
            "nvcompBatchedZstdCompressAsync", _at(chunks.told("source")), _at(chunks.told("content")), chunks.content,
            chunks.n, scratch.address, scratch.nbytes, _at(chunks.told("target")), _at(chunks.answer("size")),
            CompressOptions(), _at(chunks.answer("status")), stream.ptr,
        )  # fmt: skip


def _at(view: View) -> int:
    block: Any = view.block
    return int(block.address) + view.offset
