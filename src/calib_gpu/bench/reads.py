"""Reading alone: all ON samples of a store through the engine, and through tensorstore."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from calib_gpu.bench.plan import kinds_of
from calib_gpu.bench.scripts import not_installed
from calib_gpu.scan_run import LOAD_TILE_BYTES
from calib_gpu.selection import select_scans
from calib_gpu.settings import Settings
from calib_gpu.store.l0 import open_l0
from calib_gpu.workers import Blocks, Workers, read_tile


def read_with_engine(l0: Path, workers: int) -> dict[str, Any]:
    """Read every ON sample as the engine does, tile by tile into its buffers; seconds, samples, and the sum of the counts."""
    store, pool = open_l0(l0, Settings()), Workers(workers)
    samples, total = 0, 0
    begin = time.perf_counter()
    try:
        for scan in select_scans(store, None):
            group = store.group(scan, "source")
            c, d, n_r, n_a, _ = group.shape
            blocks = Blocks.plan(group, group.counts.dtype.itemsize, LOAD_TILE_BYTES)
            tiles = list(blocks.cover(slice(0, n_r), slice(0, n_a)))
            jobs = [(s.index, r, a) for s in group.of_kind("ON") for r, a in tiles]

            def task(job: tuple[int, slice, slice], group: Any = group) -> int:
                counts, _ = read_tile(pool, group, *job)
                return int(counts[..., 0].sum(dtype=np.int64))  # one dump: proof that it was read, at no cost

            total += sum(pool.map(task, jobs))
            samples += c * d * n_r * n_a * len(group.of_kind("ON"))
        return {"seconds": time.perf_counter() - begin, "samples": samples, "sum": total}
    finally:
        pool.close()


def read_with_tensorstore(l0: Path, workers: int) -> dict[str, Any]:
    """The same with tensorstore: one ON subscan after the other as ``[R, A, C, D]``, with as many threads.

    Raises
    ------
    ConfigError
        tensorstore is not installed.
    """
    try:
        import tensorstore as ts
    except ImportError as missing:
        raise not_installed(missing) from None
    import zarr

    store = open_l0(l0, Settings())
    limit = {"limit": workers}
    context = ts.Context({"data_copy_concurrency": limit, "file_io_concurrency": limit})
    samples, total = 0, 0
    begin = time.perf_counter()
    for scan in select_scans(store, None):
        group = l0 / scan.path / "source"
        kvstore = {"driver": "file", "path": f"{group / 'data_5d'}/"}
        counts = ts.open({"driver": "zarr3", "kvstore": kvstore}, context=context, read=True).result()
        on = [i for i, kind in enumerate(kinds_of(zarr.open_group(str(group), mode="r"))) if kind == "ON"]
        for s in on:
            block = counts[..., s].transpose([2, 3, 0, 1]).read(order="C").result()
            total += int(block[..., 0].sum(dtype=np.int64))
            samples += block.size
    return {"seconds": time.perf_counter() - begin, "samples": samples, "sum": total}
