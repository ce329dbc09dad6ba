"""What an encoder on a device makes of spectra like those of L1: rate, ratio, and whether two runs give the same bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from calib_gpu.backend.device import ALIGNMENT, Device
from calib_gpu.backend.encoder import Chunks, Encoder, chunk_table, frame_table
from calib_gpu.selftest.checks import Check
from calib_gpu.store import codecs

GB = 1e9
CHUNKS, SHAPE = 256, (16384, 8)
"""Inner chunks of L1 for preset M: 1 MiB each in float64."""


class _ChunkBatch:
    """Chunks of one size and type on a device, and what the encoder makes of them."""

    def __init__(self, device: Device, encoder: Encoder, chunks: NDArray[Any]) -> None:
        self.device, self.encoder, self.chunks = device, encoder, chunks
        self.n, self.size = len(chunks), chunks[0].nbytes
        room = -(-encoder.frame_bound(self.size) // ALIGNMENT) * ALIGNMENT
        answers, self.scratch = frame_table(self.n).nbytes, encoder.scratch_bytes(self.n, self.size)
        self.starts = [answers + k * room for k in range(self.n + 1)]
        sizes = {"source": chunks.nbytes, "table": chunk_table(self.n).nbytes, "frames": self.starts[-1]}
        self.on_host = {name: device.pinned(n) for name, n in sizes.items()}
        self.on_device = {name: device.empty(max(n, 1)) for name, n in {**sizes, "scratch": self.scratch}.items()}
        of = self.on_device
        self.batch = Chunks(self.n, self.size, of["source"], of["table"], of["scratch"], of["frames"])
        self.stream, self.event = device.stream("encode"), device.event()

    def upload(self) -> None:
        """Chunks and table."""
        self.on_host["source"].write()[:] = self.chunks.reshape(-1).view(np.uint8)
        memory, table = self.on_host["table"].write(), chunk_table(self.n)
        rows = {
            "source": self.encoder.address(self.batch.source) + self.size * np.arange(self.n, dtype=np.uint64),
            "content": np.full(self.n, self.size), "target": np.array(self.starts[:-1], np.uint64),
        }  # fmt: skip
        rows["target"] += self.encoder.address(self.batch.frames)
        for name, values in rows.items():
            table.array(name, memory)[...] = values
        for name in ("source", "table"):
            self.device.upload(self.on_device[name], self.on_host[name], self.on_host[name].nbytes, self.stream)
        self.wait()

    def encode(self) -> float:
        """Seconds for all chunks."""
        begin = time.perf_counter()
        self.encoder.encode(self.batch, self.stream)
        self.wait()
        return time.perf_counter() - begin

    def frames(self) -> tuple[list[bytes], list[int]]:
        """What came out: frames, and statuses that occur."""
        told = self.on_host["frames"]
        self.device.download(told, self.on_device["frames"], told.nbytes, self.stream)
        self.wait()
        memory = told.read()
        sizes, statuses = (frame_table(self.n).array(name, memory).tolist() for name in ("size", "status"))
        frames = [memory[k : k + n].tobytes() for k, n in zip(self.starts, sizes, strict=False)]
        return frames, sorted(set(statuses))

    def wait(self) -> None:
        """Wait for all that was begun."""
        self.device.record(self.event, self.stream)
        self.device.synchronize(self.event)

    def close(self) -> None:
        """Give all memory back."""
        for block in (*self.on_host.values(), *self.on_device.values()):
            self.device.release(block)


def measure_encode(device: Device, encoder: Encoder, n_chunk: int = CHUNKS) -> Iterator[Check | str]:
    """Spectra like those of L1, in float64 and float32."""
    for dtype in (np.float64, np.float32):
        rng = np.random.default_rng(4)
        counts = np.rint(1e6 * (1.0 + 5e-4 * rng.standard_normal((n_chunk, *SHAPE))))
        spectra = ((counts - 1e6) * rng.uniform(1e-3, 2e-3, (n_chunk, SHAPE[0], 1))).astype(dtype)
        batch = _ChunkBatch(device, encoder, spectra)
        try:
            yield from _measure(batch, f"{encoder.describe()} encodes {spectra.dtype}")
        finally:
            batch.close()


def _measure(batch: _ChunkBatch, name: str) -> Iterator[Check | str]:
    batch.upload()
    seconds, found, statuses = [], [], list[int]()
    for _ in range(3):
        seconds.append(batch.encode())
        frames, statuses = batch.frames()
        found.append(frames)
    frames, size, some = found[-1], batch.size, batch.chunks[:32]
    right, out = 0, np.empty(size, np.uint8)
    for frame, chunk in zip(frames, some, strict=False):
        codecs.decode(("zstd",), frame, out)
        right += out.tobytes() == chunk.tobytes()
    declared = sorted({zstandard.get_frame_parameters(frame).content_size for frame in frames})
    detail = f"statuses {statuses}, {right} of {len(some)} decoded by the host, declared sizes {declared}"
    wrong = statuses != [0] or right != len(some) or declared != [size]
    yield Check(name, "differs" if wrong else "ok", detail)
    total, again = batch.n * size, found[0] == found[1] == found[2]
    ratio, rate = total / sum(map(len, frames)), total / min(seconds[1:]) / GB
    scratch = f"scratch {batch.scratch / total:.1f} of the data"
    yield f"{name}: {rate:.2f} GB/s, ratio {ratio:.3f}, {scratch}, same bytes again: {again}"
    begin = time.perf_counter()
    on_host = [codecs.encode_zstd(chunk, -1) for chunk in some]
    rate = some.nbytes / (time.perf_counter() - begin) / GB
    yield f"{name}; the host: {rate:.2f} GB/s a core, ratio {some.nbytes / sum(map(len, on_host)):.3f}"
