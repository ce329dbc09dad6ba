"""What the tile loop needs to decode counts on a device: zstd in batches, crc32c, and files that are read to the device.

The libraries are optional: nvCOMP in :mod:`calib_gpu.backend.nvcomp_`, kvikio in :mod:`calib_gpu.backend.kvikio_`. Of a
simulated device both are in :mod:`calib_gpu.testing.sim_decoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from calib_gpu.backend.device import Block, Device, Layout, Stream, View
from calib_gpu.errors import ConfigError

SUCCESS: Final = 0
"""Status of a frame that was decoded."""


def table_layout(n: int) -> Layout:
    """What a decoder is told of ``n`` frames, uploaded with them: addresses and bytes of each and of its content."""
    layout = Layout()
    for name in ("source", "size", "target", "content"):
        layout.add(name, (n,), np.uint64)
    return layout


def found_layout(n: int) -> Layout:
    """What a decoder says of ``n`` frames: bytes of content, status, and crc32c where it was asked for."""
    return Layout().add("content", (n,), np.uint64).add("status", (n,), np.int32).add("crc32c", (n,), np.uint32)


@dataclass(frozen=True)
class Batch:
    """Frames on a device that are decoded in one go, each to ``content`` bytes.

    ``table_at`` is where their :func:`table_layout` lies in ``frames``.
    """

    n: int
    content: int
    frames: Block
    table_at: int
    target: Block
    scratch: Block
    found: Block

    def told(self, name: str) -> View:
        """An array of the table."""
        layout = table_layout(self.n)
        return View(self.frames, self.table_at + layout.offset(name), (self.n,), np.dtype(np.uint64))

    def answer(self, name: str) -> View:
        """An array of what is found."""
        return found_layout(self.n).view(name, self.found)


class Decoder(Protocol):
    """zstd on a device. Calls may come from several threads; nothing waits, all work goes into the given stream.

    Raises
    ------
    DeviceLost
        The library refuses, or the device reports an error.
    """

    def describe(self) -> str:
        """Library and version, for the report."""
        ...

    def address(self, block: Block) -> int:
        """What the table says of a place in a block is this plus the offset."""
        ...

    def scratch_bytes(self, n: int, content: int) -> int:
        """Memory that it needs beside a batch of ``n`` frames of ``content`` bytes each."""
        ...

    def checksums(self, batch: Batch, stream: Stream) -> None:
        """crc32c of the frames as they lie on the device."""
        ...

    def decode(self, batch: Batch, stream: Stream) -> None:
        """Decode all frames. Damaged ones are undefined behaviour: they must have been checked."""
        ...


@dataclass(frozen=True)
class Span:
    """Bytes of a file, and where they go in a block."""

    offset: int
    size: int
    at: int


class DeviceFiles(Protocol):
    """Files that are read to the device. Nothing is ever written with it."""

    def describe(self) -> str:
        """Library, version and mode, for the report."""
        ...

    def read(self, file: Path, spans: Sequence[Span], block: Block) -> None:
        """Read parts of a file into a block that no operation uses, and wait for them.

        Raises
        ------
        OSError
            The file cannot be read, or not all of it.
        """
        ...


def _nvcomp() -> Decoder:
    from calib_gpu.backend.nvcomp_ import Nvcomp

    return Nvcomp()


def _kvikio() -> DeviceFiles:
    from calib_gpu.backend.kvikio_ import KvikioFiles

    return KvikioFiles()


DECODERS: Final[dict[str, Callable[[Device], Decoder]]] = {"cupy": lambda _: _nvcomp()}
FILES: Final[dict[str, Callable[[Device], DeviceFiles]]] = {"cupy": lambda _: _kvikio()}
"""By the name of the device."""


def open_decoder(device: Device) -> Decoder:
    """The decoder of a device; :class:`ConfigError` where there is none."""
    if device.name not in DECODERS:
        raise ConfigError("decodes nothing", array="backend", value=device.name, rule=" | ".join(DECODERS))
    return DECODERS[device.name](device)


def open_files(device: Device) -> DeviceFiles:
    """What reads files to a device; :class:`ConfigError` where there is nothing."""
    if device.name not in FILES:
        raise ConfigError("reads no files", array="backend", value=device.name, rule=" | ".join(FILES))
    return FILES[device.name](device)
