"""The stores that are measured: simulated ones, and the same data in chunkings that are hard to read."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from calib_gpu.bench.measure import Say
from calib_gpu.errors import ConfigError
from calib_gpu.simulate import realistic, simulate
from calib_gpu.simulate.config import Shape, SimulationConfig

CHUNK_BYTES: Final = 4 * 1024 * 1024
LARGEST_CHUNK_BYTES: Final = 256 * 1024 * 1024
MOST_CHUNKS: Final = 250_000
ONE_SUBSCAN: Final = "one subscan"


def _innermost(shape: Shape, itemsize: int) -> Shape:
    """All subscans and dumps of some channels of a pixel: about 4 MiB, the subscan the fastest axis."""
    c, d, _, _, s = shape
    return max(1, min(c, CHUNK_BYTES // (d * s * itemsize))), d, 1, 1, s


CHUNKINGS: Final[dict[str, Callable[[Shape, int], Shape]]] = {
    "all subscans innermost": _innermost,
    "(1024,1,1,1,1)": lambda shape, itemsize: (min(1024, shape[0]), 1, 1, 1, 1),
    "all pixels of a subscan": lambda shape, itemsize: (min(1024, shape[0]), *shape[1:4], 1),
    "one chunk": lambda shape, itemsize: shape,
}
"""Chunks of counts by name, beside those of the simulator (:data:`ONE_SUBSCAN`): shape of the array and bytes of a sample."""


class Stores:
    """Stores in a work folder, made when they are asked for first; the folder is the caller's to remove."""

    def __init__(self, work: Path, workers: int, say: Say) -> None:
        self.work, self.workers, self.say = work, workers, say

    def simulated(self, name: str, config: SimulationConfig) -> Path:
        """A simulated store."""
        path = self.work / f"{name}.zarr"
        if not path.exists():
            c, d, r, a, s = config.counts_shape
            need = c * d * r * a * s * config.science_scans * 15  # counts, and one L1 at a time
            free = shutil.disk_usage(self.work).free
            if free < need:
                raise ConfigError(
                    "not enough disk space for the stores of the benchmark", array=str(self.work),
                    value=f"{free / 1e9:.1f} GB", rule=f"{need / 1e9:.1f} GB", fix="give another --work, or a smaller preset",
                )  # fmt: skip
            self.say(f"store {name}: {config.counts_shape}, {config.science_scans} scan(s)")
            simulate(path, config, workers=self.workers)
        return path

    def preset(self, preset: str) -> Path:
        """A night of science scans, each with loads of its own."""
        return self.simulated(preset, realistic(preset, night=False))

    def shaped(self, name: str, shape: Shape) -> Path:
        """One scan of a shape."""
        return self.simulated(name, replace(realistic("M", shape=shape, night=False, n_scans=1)))

    def tiny_scans(self, count: int) -> Path:
        """Many tiny scans."""
        return self.simulated(f"tiny-scans-{count}", realistic("tiny", night=False, n_scans=count))

    def rechunked(self, l0: Path, chunking: str) -> Path:
        """The same data in other chunks.

        Raises
        ------
        ConfigError
            Chunks would be larger than 256 MiB, or more than 250,000.
        """
        path = self.work / f"{l0.stem}-chunks-{list(CHUNKINGS).index(chunking)}.zarr"
        if not path.exists():
            self.say(f"store with chunks: {chunking}")
            try:
                rechunk(l0, path, CHUNKINGS[chunking])
            except BaseException:
                shutil.rmtree(path, ignore_errors=True)
                raise
        return path


def rechunk(l0: Path, out: Path, chunk_of: Callable[[Shape, int], Shape]) -> None:
    """Copy a store, the counts of ``source`` in other chunks: plain files, zstd, default chunk names."""
    counts = [p.parent for p in sorted(l0.rglob("source/data_5d/zarr.json"))]
    shutil.copytree(l0, out, ignore=lambda folder, _: ["data_5d"] if Path(folder).name == "source" else [])
    for folder in counts:
        _rewrite(folder, out / folder.relative_to(l0), chunk_of)


def _rewrite(source: Path, target: Path, chunk_of: Callable[[Shape, int], Shape]) -> None:
    import zarr
    from zarr.codecs import ZstdCodec

    old: Any = zarr.open_array(str(source), mode="r")
    chunk = chunk_of(old.shape, old.dtype.itemsize)
    size = math.prod(chunk) * old.dtype.itemsize
    n_chunk = math.prod(-(-n // k) for n, k in zip(old.shape, chunk, strict=True))
    if size > LARGEST_CHUNK_BYTES or n_chunk > MOST_CHUNKS:
        raise ConfigError(
            "not a chunking to be measured on this store", array=str(source), value=f"{n_chunk} chunks of {size} bytes",
            rule=f"at most {MOST_CHUNKS} of at most {LARGEST_CHUNK_BYTES}",
        )  # fmt: skip
    new: Any = zarr.create_array(
        str(target), shape=old.shape, chunks=chunk, dtype=old.dtype, compressors=[ZstdCodec(level=1)], fill_value=0,
        dimension_names=old.metadata.dimension_names, attributes=dict(old.attrs),
    )  # fmt: skip
    for corner in itertools.product(*(range(0, n, k) for n, k in zip(old.shape[2:4], chunk[2:4], strict=True))):
        r, a = (slice(k, k + n) for k, n in zip(corner, chunk[2:4], strict=True))
        block = old[:, :, r, a, :]
        _write_chunks(block, (0, 0, corner[0] // chunk[2], corner[1] // chunk[3], 0), chunk, new, target)


def _write_chunks(block: Any, origin: tuple[int, ...], chunk: Shape, array: Any, folder: Path) -> None:
    """Write the chunks of some pixels; one by one because zarr-python takes many times as long for small ones."""
    import numcodecs.zstd

    for corner in itertools.product(*(range(0, n, k) for n, k in zip(block.shape, chunk, strict=True))):
        data = block[tuple(slice(k, k + n) for k, n in zip(corner, chunk, strict=True))]
        if data.shape != chunk:
            data = np.pad(data, [(0, n - k) for n, k in zip(chunk, data.shape, strict=True)])
        coords = tuple(o + k // n for o, k, n in zip(origin, corner, chunk, strict=True))
        path = folder / array.metadata.encode_chunk_key(coords)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(numcodecs.zstd.compress(np.ascontiguousarray(data), 1))
