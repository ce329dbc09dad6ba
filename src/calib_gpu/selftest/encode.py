"""What nvCOMP would make of L1: rate, ratio, and whether two runs give the same bytes. The engine does not encode with it.

The numbers are for the decision whether it should (docs/gpu-readers.md).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from calib_gpu.backend.device import Device, Layout
from calib_gpu.backend.nvcomp_ import load_library
from calib_gpu.selftest.checks import Check
from calib_gpu.store import codecs

GB = 1e9
CHUNKS, SHAPE = 256, (16384, 8)
"""Inner chunks of L1 for preset M: 1 MiB each in float64."""


class CompressOptions(ctypes.Structure):
    """nvcompBatchedZstdCompressOpts_t."""

    _fields_ = [("reserved", ctypes.c_char * 64)]


TABLE: Final = {"source": np.uint64, "size": np.uint64, "target": np.uint64, "bytes": np.uint64, "status": np.int32}
_size, _pointer = ctypes.c_size_t, ctypes.c_void_p
FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "nvcompBatchedZstdCompressGetTempSize": (_size, _size, CompressOptions, ctypes.POINTER(_size), _size, _pointer),
    "nvcompBatchedZstdCompressGetMaxOutputChunkSize": (_size, CompressOptions, ctypes.POINTER(_size)),
    "nvcompBatchedZstdCompressAsync": (
        _pointer, _pointer, _size, _size, _pointer, _size, _pointer, _pointer, CompressOptions, _pointer, _pointer,
    ),
}  # fmt: skip


class _Encoder:
    """Chunks of one size and type on a CUDA device, and what nvCOMP makes of them."""

    def __init__(self, device: Device, library: Any, chunks: NDArray[Any]) -> None:
        self.device, self.library, self.chunks = device, library, chunks
        self.n, self.size = len(chunks), chunks[0].nbytes
        most, scratch = ctypes.c_size_t(), ctypes.c_size_t()
        self.status = library.nvcompBatchedZstdCompressGetMaxOutputChunkSize(
            self.size, CompressOptions(), ctypes.byref(most)
        )
        self.status |= library.nvcompBatchedZstdCompressGetTempSize(
            self.n, self.size, CompressOptions(), ctypes.byref(scratch), chunks.nbytes, None
        )
        self.scratch, self.room = scratch.value, -(-most.value // 256) * 256
        self.table = Layout()
        for name, dtype in TABLE.items():
            self.table.add(name, (self.n,), dtype)
        sizes = {"source": chunks.nbytes, "target": self.n * self.room, "scratch": max(self.scratch, 1)}
        self.on_host = {k: device.pinned(sizes[k]) for k in ("source", "target")}
        self.on_device: dict[str, Any] = {name: device.empty(n) for name, n in sizes.items()}
        self.on_host["table"] = device.pinned(self.table.nbytes)
        self.on_device["table"] = device.empty(self.table.nbytes)
        self.stream: Any = device.stream("encode")
        self.event = device.event()

    def upload(self) -> None:
        """Chunks and table; no status is that of success."""
        self.on_host["source"].write()[:] = self.chunks.reshape(-1).view(np.uint8)
        memory, steps = self.on_host["table"].write(), np.arange(self.n, dtype=np.uint64)
        for name, step in (("source", self.size), ("target", self.room)):
            first = np.uint64(self.on_device[name].address)
            self.table.array(name, memory)[:] = steps * np.uint64(step) + first
        for name, value in (("size", self.size), ("bytes", 0), ("status", -1)):
            self.table.array(name, memory)[:] = value
        for name in ("source", "table"):
            self.device.upload(self.on_device[name], self.on_host[name], self.on_host[name].nbytes, self.stream)
        self.wait()

    def encode(self) -> float:
        """Seconds for all chunks."""
        at = {name: self.on_device["table"].address + self.table.offset(name) for name in TABLE}
        begin = time.perf_counter()
        self.status |= self.library.nvcompBatchedZstdCompressAsync(
            at["source"], at["size"], self.size, self.n, self.on_device["scratch"].address, self.scratch, at["target"],
            at["bytes"], CompressOptions(), at["status"], self.stream.ptr,
        )  # fmt: skip
        self.wait()
        return time.perf_counter() - begin

    def frames(self) -> list[bytes]:
        """What came out."""
        for name in ("target", "table"):
            self.device.download(self.on_host[name], self.on_device[name], self.on_host[name].nbytes, self.stream)
        self.wait()
        sizes, raw = self.table.array("bytes", self.on_host["table"].read()), self.on_host["target"].read()
        return [raw[k * self.room : k * self.room + int(size)].tobytes() for k, size in enumerate(sizes)]

    def statuses(self) -> list[int]:
        """Statuses that occur: of the calls, and of the frames."""
        return sorted({self.status, *self.table.array("status", self.on_host["table"].read()).tolist()})

    def wait(self) -> None:
        """Wait for all that was begun."""
        self.device.record(self.event, self.stream)
        self.device.synchronize(self.event)

    def close(self) -> None:
        """Give all memory back."""
        for block in (*self.on_host.values(), *self.on_device.values()):
            self.device.release(block)


def measure_encode(device: Device) -> Iterator[Check | str]:
    """Spectra like those of L1, in float64 and float32; on a CUDA device only."""
    library: Any = load_library()
    for name, arguments in FUNCTIONS.items():
        getattr(library, name).argtypes, getattr(library, name).restype = arguments, ctypes.c_int
    for dtype in (np.float64, np.float32):
        rng = np.random.default_rng(4)
        counts = np.rint(1e6 * (1.0 + 5e-4 * rng.standard_normal((CHUNKS, *SHAPE))))
        spectra = ((counts - 1e6) * rng.uniform(1e-3, 2e-3, (CHUNKS, SHAPE[0], 1))).astype(dtype)
        encoder = _Encoder(device, library, spectra)
        try:
            yield from _measure(encoder, f"nvCOMP encodes {spectra.dtype}")
        finally:
            encoder.close()


def _measure(encoder: _Encoder, name: str) -> Iterator[Check | str]:
    encoder.upload()
    seconds, found = [], []
    for _ in range(3):
        seconds.append(encoder.encode())
        found.append(encoder.frames())
    frames, size, some = found[-1], encoder.size, encoder.chunks[:32]
    right, out = 0, np.empty(size, np.uint8)
    for frame, chunk in zip(frames, some, strict=False):
        codecs.decode(("zstd",), frame, out)
        right += out.tobytes() == chunk.tobytes()
    declared = sorted({zstandard.get_frame_parameters(frame).content_size for frame in frames})
    statuses = encoder.statuses()
    detail = f"statuses {statuses}, {right} of {len(some)} decoded by the host, declared sizes {declared}"
    yield Check(name, "ok" if statuses == [0] and right == len(some) else "differs", detail)
    total, again = encoder.n * size, found[0] == found[1] == found[2]
    ratio, rate = total / sum(map(len, frames)), total / min(seconds[1:]) / GB
    scratch = f"scratch {encoder.scratch / total:.1f} of the data"
    yield f"{name}: {rate:.2f} GB/s, ratio {ratio:.3f}, {scratch}, same bytes again: {again}"
    begin = time.perf_counter()
    on_host = [codecs.encode_zstd(chunk, -1) for chunk in some]
    rate = some.nbytes / (time.perf_counter() - begin) / GB
    yield f"{name}; the host: {rate:.2f} GB/s a core, ratio {some.nbytes / sum(map(len, on_host)):.3f}"
