"""Decoder, encoder and file reader of the simulated device: what nvCOMP and kvikio do, when the schedule lets them.

Decoder and encoder take nothing for granted: they read their tables on the device at their turn, and every address must lie
in the block that the launch names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
import zstandard
from numpy.typing import NDArray

from calib_gpu.backend.decoder import SUCCESS, Batch, Span
from calib_gpu.backend.device import ALIGNMENT, View
from calib_gpu.backend.encoder import Chunks
from calib_gpu.store.frames import FRAME_ALIGNMENT
from calib_gpu.testing.sim import SimDevice
from calib_gpu.testing.sim_memory import SimBlock

CANNOT_DECOMPRESS: Final = 12
"""The status that nvCOMP gives."""
_FAR: Final = 1 << 40
_ENCODER_ALIGNMENT: Final = 4
"""nvcompZstdRequiredCompressionAlignment."""


class _OnDevice:
    """Blocks of a simulated device, and their addresses."""

    def __init__(self, device: Any) -> None:
        self.device: SimDevice = device
        self._addresses: dict[SimBlock, int] = {}

    def address(self, block: Any) -> int:
        """Blocks lie far from each other, in the order in which they are asked for."""
        return self._addresses.setdefault(block, (len(self._addresses) + 1) * _FAR)

    def _block(self, block: Any) -> SimBlock:
        if not isinstance(block, SimBlock) or block.device is not self.device:
            raise AssertionError(f"{block!r} is not a block of this device")
        return block

    def _bytes(self, block: SimBlock, address: int, size: int, alignment: int = 1) -> NDArray[np.uint8]:
        start = address - self.address(block)
        if start < 0 or start + size > block.nbytes or start % alignment:
            raise AssertionError(f"bytes {start} to {start + size} of {block}, alignment {alignment}")
        return block.memory[start : start + size]


class SimDecoder(_OnDevice):
    """See :class:`calib_gpu.backend.decoder.Decoder`.

    Parameters
    ----------
    device
        Whose streams and blocks these are.
    answer
        Called with the number of each frame and its status before that is told; may tell another one.
    """

    def __init__(self, device: Any, answer: Callable[[int, int], int] = lambda k, status: status) -> None:
        super().__init__(device)
        self.answer, self.n_frame = answer, 0

    def describe(self) -> str:
        """That it is simulated."""
        return "simulated decoder"

    def scratch_bytes(self, n: int, content: int) -> int:
        """As much as the content."""
        return n * content

    def checksums(self, batch: Batch, stream: Any) -> None:
        """crc32c of the frames."""
        frames, found = self._block(batch.frames), self._block(batch.found)

        def run() -> None:
            for k in range(batch.n):
                frame = self._bytes(frames, _value(batch.told("source"), k), _value(batch.told("size"), k))
                _array(batch.answer("crc32c"))[k] = google_crc32c.value(frame.tobytes())

        self.device._enqueue("crc32c of frames", stream, run, (frames,), (found,))

    def decode(self, batch: Batch, stream: Any) -> None:
        """Decode; the scratch memory is written, too."""
        frames, target = self._block(batch.frames), self._block(batch.target)
        scratch, found = self._block(batch.scratch), self._block(batch.found)
        if scratch.nbytes < self.scratch_bytes(batch.n, batch.content):
            raise AssertionError(f"{scratch} is too small for {batch.n} frames of {batch.content} bytes")

        def run() -> None:
            for k in range(batch.n):
                source, size, place, content = (
                    _value(batch.told(name), k) for name in ("source", "size", "target", "content")
                )
                frame = self._bytes(frames, source, size, FRAME_ALIGNMENT)
                out = self._bytes(target, place, content, FRAME_ALIGNMENT)
                status, n = _decode(frame, out)
                scratch.memory[k * content : k * content + n] = out[:n]
                self.n_frame += 1
                _array(batch.answer("status"))[k] = self.answer(self.n_frame - 1, status)
                _array(batch.answer("content"))[k] = n

        self.device._enqueue("decoding of frames", stream, run, (frames,), (target, scratch, found))


class SimEncoder(_OnDevice):
    """See :class:`calib_gpu.backend.encoder.Encoder`.

    Parameters
    ----------
    device
        Whose streams and blocks these are.
    spoil
        Called with the number of each frame and its bytes before they are put down; may give others.
    answer
        Called with the number of each frame, its status and size before they are told; may tell others.
    """

    def __init__(
        self, device: Any, spoil: Callable[[int, bytes], bytes] = lambda k, frame: frame,
        answer: Callable[[int, int, int], tuple[int, int]] = lambda k, status, size: (status, size),
    ) -> None:  # fmt: skip
        super().__init__(device)
        self.spoil, self.answer, self.n_frame = spoil, answer, 0

    def describe(self) -> str:
        """That it is simulated."""
        return "simulated encoder"

    def frame_bound(self, content: int) -> int:
        """More than zstd ever takes."""
        return content + (content >> 8) + 64

    def scratch_bytes(self, n: int, content: int) -> int:
        """As much as the content."""
        return n * content

    def encode(self, chunks: Chunks, stream: Any) -> None:
        """Encode; the scratch memory is written, too, and of each frame's place what is behind the frame."""
        source, table = self._block(chunks.source), self._block(chunks.table)
        scratch, frames = self._block(chunks.scratch), self._block(chunks.frames)
        if scratch.nbytes < self.scratch_bytes(chunks.n, chunks.content):
            raise AssertionError(f"{scratch} is too small for {chunks.n} chunks of {chunks.content} bytes")

        def run() -> None:
            for k in range(chunks.n):
                place, content, target = (_value(chunks.told(name), k) for name in ("source", "content", "target"))
                if content != chunks.content:
                    raise AssertionError(f"a chunk of {content} bytes among chunks of {chunks.content}")
                data = self._bytes(source, place, content, _ENCODER_ALIGNMENT).tobytes()
                room = self._bytes(frames, target, self.frame_bound(content), ALIGNMENT)
                frame = self.spoil(self.n_frame, zstandard.ZstdCompressor(1, write_content_size=True).compress(data))
                room[:] = 0xA5
                room[: len(frame)] = np.frombuffer(frame, np.uint8)
                scratch.memory[k * content : (k + 1) * content] = np.frombuffer(data, np.uint8)
                told = self.answer(self.n_frame, SUCCESS, len(frame))
                _array(chunks.answer("status"))[k], _array(chunks.answer("size"))[k] = told
                self.n_frame += 1

        self.device._enqueue("encoding of chunks", stream, run, (source, table), (scratch, frames))


def _decode(frame: NDArray[np.uint8], out: NDArray[np.uint8]) -> tuple[int, int]:
    """Status and bytes."""
    try:
        content = zstandard.ZstdDecompressor().decompress(frame.tobytes(), allow_extra_data=False)
    except zstandard.ZstdError:
        return CANNOT_DECOMPRESS, 0
    if len(content) > out.size:
        return CANNOT_DECOMPRESS, 0
    out[: len(content)] = np.frombuffer(content, np.uint8)
    return SUCCESS, len(content)


def _array(view: View) -> NDArray[Any]:
    block: Any = view.block
    array: NDArray[Any] = block.array(view)
    return array


def _value(view: View, k: int) -> int:
    return int(_array(view)[k])


class SimFiles:
    """See :class:`calib_gpu.backend.decoder.DeviceFiles`. ``spoil`` may change what was read before it is on the device."""

    def __init__(self, device: Any, spoil: Callable[[bytes], bytes] = lambda data: data) -> None:
        self.device: SimDevice = device
        self.spoil, self.n_read = spoil, 0

    def describe(self) -> str:
        """That it is simulated."""
        return "simulated file reader"

    def read(self, file: Path, spans: Sequence[Span], block: Any) -> None:
        """Read at once: the block is touched by the host, as kvikio's copies end before it returns."""
        self.device.touch(f"file read to {block}", writes=(block,))
        with file.open("rb") as handle:
            for span in spans:
                handle.seek(span.offset)
                data = handle.read(span.size)
                if len(data) != span.size:
                    raise OSError(f"{len(data)} of {span.size} bytes")
                block.memory[span.at : span.at + span.size] = np.frombuffer(self.spoil(data), np.uint8)
                self.n_read += 1
