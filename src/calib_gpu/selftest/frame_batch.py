"""Frames in the memory of a device, decoded alone: for checks and rates, without the tile loop."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.decoder import Batch, Decoder, found_layout, table_layout
from calib_gpu.backend.device import Block, Device, View
from calib_gpu.store.frames import FRAME_ALIGNMENT


class FrameBatch:
    """Frames of the same content size, with all the memory that they need; give it back with :meth:`close`."""

    def __init__(self, device: Device, decoder: Decoder, frames: Sequence[bytes], content: int) -> None:
        self.device, self.decoder, n = device, decoder, len(frames)
        self.stream, self.event, self._blocks = device.stream("batch"), device.event(), list[Block]()
        table = table_layout(n)
        places, end = [], table.nbytes
        for frame in frames:
            places.append(end)
            end = -(-(end + len(frame)) // FRAME_ALIGNMENT) * FRAME_ALIGNMENT
        self.nbytes = end
        self._host, self._told = device.pinned(end), device.pinned(found_layout(n).nbytes)
        self._out, target = device.pinned(n * content), device.empty(n * content)
        scratch = device.empty(max(decoder.scratch_bytes(n, content), 1))
        on_device, found = device.empty(end), device.empty(found_layout(n).nbytes)
        self._blocks += [self._host, self._told, self._out, target, scratch, on_device, found]
        self.batch = Batch(n, content, on_device, 0, target, scratch, found)
        memory = self._host.write()
        for place, frame in zip(places, frames, strict=True):
            memory[place : place + len(frame)] = np.frombuffer(frame, np.uint8)
        rows = {
            "source": np.array(places, np.uint64) + np.uint64(decoder.address(on_device)),
            "size": [len(frame) for frame in frames], "content": content,
            "target": np.arange(n, dtype=np.uint64) * np.uint64(content) + np.uint64(decoder.address(target)),
        }  # fmt: skip
        for name, values in rows.items():
            table.array(name, memory)[...] = values

    def upload(self) -> None:
        """Frames and table; nothing is found yet."""
        batch = self.batch
        self.device.upload(batch.frames, self._host, self.nbytes, self.stream)
        whole = View(batch.found, 0, (found_layout(batch.n).nbytes,), np.dtype(np.uint8))
        self.device.clear(whole, self.stream)

    def checksums(self) -> None:
        """Begin crc32c."""
        self.decoder.checksums(self.batch, self.stream)

    def decode(self) -> None:
        """Begin to decode."""
        self.decoder.decode(self.batch, self.stream)

    def wait(self) -> None:
        """Wait for all that was begun."""
        self.device.record(self.event, self.stream)
        self.device.synchronize(self.event)

    def decode_and_wait(self) -> None:
        """Decode, and wait for it."""
        self.decode()
        self.wait()

    def answer(self, name: str) -> NDArray[Any]:
        """What was found."""
        self.device.download(self._told, self.batch.found, found_layout(self.batch.n).nbytes, self.stream)
        self.wait()
        return found_layout(self.batch.n).array(name, self._told.read()).copy()

    def result(self) -> NDArray[np.uint8]:
        """The content [n, bytes]."""
        self.device.download(self._out, self.batch.target, self._out.nbytes, self.stream)
        self.wait()
        return self._out.read().reshape(self.batch.n, -1).copy()

    def close(self) -> None:
        """Give all memory back."""
        for block in self._blocks:
            self.device.release(block)
        self._blocks.clear()

    def __enter__(self) -> FrameBatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
