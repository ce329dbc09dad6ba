"""What the tile loop needs to encode spectra on a device: zstd, many chunks in one go.

The library is optional: nvCOMP, in :mod:`calib_gpu.backend.nvcomp_`. That of a simulated device is in
:mod:`calib_gpu.testing.sim_decoder`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from calib_gpu.backend.device import Block, Device, Layout, Stream, View
from calib_gpu.errors import ConfigError


def chunk_table(n: int) -> Layout:
    """What an encoder is told of ``n`` chunks, uploaded before: addresses and bytes of each, and where its frame goes."""
    layout = Layout()
    for name in ("source", "content", "target"):
        layout.add(name, (n,), np.uint64)
    return layout


def frame_table(n: int) -> Layout:
    """What an encoder says of ``n`` chunks: bytes of each frame, and status."""
    return Layout().add("size", (n,), np.uint64).add("status", (n,), np.int32)


@dataclass(frozen=True)
class Chunks:
    """``n`` chunks on a device of ``content`` bytes each, encoded in one go.

    ``table`` holds their :func:`chunk_table`; ``frames`` begins with their :func:`frame_table`, behind which the frames go.
    """

    n: int
    content: int
    source: Block
    table: Block
    scratch: Block
    frames: Block

    def told(self, name: str) -> View:
        """An array of what the encoder is told."""
        return chunk_table(self.n).view(name, self.table)

    def answer(self, name: str) -> View:
        """An array of what it says."""
        return frame_table(self.n).view(name, self.frames)


class Encoder(Protocol):
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

    def frame_bound(self, content: int) -> int:
        """Most bytes that a frame of so many bytes of content takes."""
        ...

    def scratch_bytes(self, n: int, content: int) -> int:
        """Memory that it needs beside ``n`` chunks of ``content`` bytes each."""
        ...

    def encode(self, chunks: Chunks, stream: Stream) -> None:
        """Encode all chunks, each to one frame that says how much it holds."""
        ...


def _nvcomp() -> Encoder:
    from calib_gpu.backend.nvcomp_ import NvcompEncoder

    return NvcompEncoder()


ENCODERS: Final[dict[str, Callable[[Device], Encoder]]] = {"cupy": lambda _: _nvcomp()}
"""By the name of the device."""


def open_encoder(device: Device) -> Encoder:
    """The encoder of a device; :class:`ConfigError` where there is none."""
    if device.name not in ENCODERS:
        raise ConfigError(
            "encodes nothing", array="backend", value=device.name, rule=" | ".join(ENCODERS), fix="use --codec zstd"
        )
    return ENCODERS[device.name](device)
