"""The launch chain of the PWV grid: squares, their sums over channels for all grid points and OFFs, one download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.device import Argument, Layout
from calib_gpu.physics.sky import AtNodes, Sky, Slab
from calib_gpu.physics.sky_sums import SkySums
from calib_gpu.records import Floats

if TYPE_CHECKING:
    from calib_gpu.backend.on_device import Desk

SUMS = ("yy", "ys", "yi", "ss", "si", "ii")
CHAIN_BYTES = 64 * 1024 * 1024
ARRAYS = 40
"""Bound on the arrays of a chain; about so many of them are as long as an OFF has channels (q at the nodes of two bands)."""
SQUARES = ("m1", "r1", "l21", "m2", "r2", "constant")


def chi2_launches(desk: Desk, sums: SkySums, sky: Sky, x: Floats, grid: Floats) -> Floats:
    """chi2 ``[grid, O]``; see :func:`calib_gpu.physics.sky_sums.chi2_grid`. Some OFFs at a time, where they are large."""
    step = max(1, CHAIN_BYTES // (8 * ARRAYS * sums.yy.shape[1]))
    parts = [slice(o, o + step) for o in range(0, x.size, step)]
    return np.concatenate([_chain(desk, sums.part(part), sky, x[part], grid) for part in parts], axis=1)


def _chain(desk: Desk, sums: SkySums, sky: Sky, x: Floats, grid: Floats) -> Floats:
    """The same for OFFs that fit."""
    n_off, n = sums.yy.shape
    has_image = np.int32(len(sky.bands) > 1)
    up, work = Layout(), Layout()
    for name in SUMS:
        up.add(name, (n_off, n), np.float64)
    arrays: dict[str, NDArray[Any]] = {name: getattr(sums, name) for name in SUMS}
    exact = sky.bins is None and all(isinstance(band, Slab) for band in sky.bands)
    model = (_slab if exact else _at_nodes)(up, arrays, sky, x, grid)
    down = Layout().add("chi2", (n_off, grid.size), np.float64).add("constant", (n_off,), np.float64)
    for name in SQUARES:
        work.add(name, (n_off, n), np.float64)
    source, between, target = (
        desk.upload(up, arrays, "sky"),
        desk.block("work", work.nbytes),
        desk.block("out", down.nbytes),
    )
    squares = [work.view(name, between) for name in SQUARES]
    desk.launch(
        "squares", (n_off * n,), *(up.view(name, source) for name in SUMS), has_image, *squares,
        reads=(source,), writes=(between,),
    )  # fmt: skip
    desk.launch(
        "row_sums",
        (n_off, n),
        squares[-1],
        np.int64(n),
        down.view("constant", target),
        reads=(between,),
        writes=(target,),
    )
    arguments = [*squares[:-1], *(up.view(name, source) for name in model.arrays), has_image, *model.sizes]
    sizes = (np.int64(grid.size), np.int64(n))
    desk.launch(
        model.kernel, (n_off * grid.size, n), *arguments, *sizes, down.view("chi2", target),
        reads=(source, between), writes=(target,),
    )  # fmt: skip
    memory = desk.download(target, down.nbytes)
    chi2: Floats = (down.array("chi2", memory) + down.array("constant", memory)[:, None]).T
    return np.ascontiguousarray(chi2)


@dataclass(frozen=True)
class _Model:
    """The kernel for a kind of sky, and its arguments between the squares and the sizes of the grid."""

    kernel: str
    arrays: tuple[str, ...]
    sizes: tuple[Argument, ...] = ()


def _slab(up: Layout, arrays: dict[str, NDArray[Any]], sky: Sky, x: Floats, grid: Floats) -> _Model:
    """A slab, every channel alone: its transmission is calculated where it is needed."""
    arrays |= {"grid": grid, "x": x}
    for side, band in zip(("signal", "image"), (sky.bands[0], sky.bands[-1]), strict=True):
        assert isinstance(band, Slab)
        arrays |= {f"b_{side}": band.b, f"c_{side}": band.c}
    names = ("grid", "x", "b_signal", "c_signal", "b_image", "c_image")
    for name in names:
        up.add(name, arrays[name].shape, np.float64)
    return _Model("chi2_slab", names)


def _at_nodes(up: Layout, arrays: dict[str, NDArray[Any]], sky: Sky, x: Floats, grid: Floats) -> _Model:
    """Layers, or means in bins: q at a few nodes comes from the host, as NumPy has it, and is interpolated between them."""
    for side, band in zip(("q_signal", "q_image"), (sky.bands[0], sky.bands[-1]), strict=True):
        known = AtNodes.of(grid, x, lambda w, at, band=band: sky.mean(band.value(w, at)))  # type: ignore[misc]
        arrays[side] = np.array([known.values(o) for o in range(x.size)])
        up.add(side, arrays[side].shape, np.float64)
    nodes = known.nodes
    arrays |= {"node": nodes.first, "weights": nodes.weights}
    up.add("node", nodes.first.shape, np.int32).add("weights", nodes.weights.shape, np.float64)
    sizes = (np.int32(nodes.weights.shape[1]), np.int64(nodes.pwv.size))
    return _Model("chi2_nodes", ("node", "weights", "q_signal", "q_image"), sizes)
