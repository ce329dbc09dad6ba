"""A model of the tile stream on a GPU node: what each stage could reach by itself, and which is the wall.

Everything here is computed, not measured: processor times of one core, measured elsewhere, times cores; bandwidths of
datasheets times the share of them that was seen. It supposes that stages overlap without loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

IN_BYTES: Final = 4.0
OUT_BYTES: Final = 10.0
CHANNEL_BYTES: Final = 18.0
"""int32 counts up, float64 spectra and flags down, for a sample; reference, factor and flags up, for a channel."""


@dataclass(frozen=True)
class Codec:
    """Processor time of one core for a sample [ns]: reading and decoding, encoding and writing; bytes written."""

    name: str
    decode: float
    encode: float
    written: float


@dataclass(frozen=True)
class Node:
    """Cores, bandwidth of the bus in each direction and of the GPU's memory, of the disk [GB/s]."""

    name: str
    cores: int
    bus: float
    memory: float
    disk: float


CODECS: Final = (
    Codec("zstd -1, float64", 4.0, 5.0, 8.2),
    Codec("precision auto, blosc-lz4", 4.0, 5.0, 2.0),
)
"""Processor times of one core of the machine of the tables above (parts of the floor), rounded."""

NODES: Final = (
    Node("laptop, 4 cores, RTX 4090 (PCIe 4)", 4, 25.0, 0.7 * 1008.0, 3.0),
    Node("16 cores, A100 (PCIe 4)", 16, 25.0, 0.7 * 2039.0, 3.0),
    Node("16 cores, H200 (PCIe 5)", 16, 52.0, 0.7 * 3796.0, 3.0),
    Node("64 cores, H200 (PCIe 5), parallel file system", 64, 52.0, 0.7 * 3796.0, 10.0),
)
"""Disk bandwidths are suppositions; that of memory is a copy's (H200: measured, others: datasheet) times that of the kernel."""


@dataclass(frozen=True)
class Stages:
    """Samples per second [1e9] that each stage could reach alone."""

    codec: float
    up: float
    kernel: float
    down: float
    disk: float

    @property
    def wall(self) -> tuple[str, float]:
        """The slowest stage."""
        return min(vars(self).items(), key=lambda item: item[1])


def stages(node: Node, codec: Codec, n_dump: int = 40) -> Stages:
    """What a node reaches, for scans of so many dumps."""
    up = IN_BYTES + CHANNEL_BYTES / n_dump
    return Stages(
        node.cores / (codec.decode + codec.encode), node.bus / up, node.memory / (up + OUT_BYTES), node.bus / OUT_BYTES,
        node.disk / codec.written,
    )  # fmt: skip


def table() -> Iterator[tuple[str, ...]]:
    """Rows of the table in docs/performance.md, the head first."""
    yield ("node", "codec", "host codec", "up", "kernel", "down", "disk", "wall")
    for node in NODES:
        for codec in CODECS:
            found = stages(node, codec)
            wall, rate = found.wall
            yield (node.name, codec.name, *(f"{v:.2g}" for v in vars(found).values()), f"{wall}, {rate:.2g}")
