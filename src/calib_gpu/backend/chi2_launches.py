"""The launch chain of the PWV grid: squares, their sums over channels for all grid points and OFFs, one download."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.device import Argument, Block, Layout
from calib_gpu.physics.sky import Nodes, Sky, Slab
from calib_gpu.physics.sky_sums import SkySums
from calib_gpu.records import Floats

if TYPE_CHECKING:
    from calib_gpu.backend.on_device import Desk

SUMS = ("yy", "ys", "yi", "ss", "si", "ii")
SQUARES = ("m1", "r1", "l21", "m2", "r2", "constant")


def chi2_launches(desk: Desk, sums: SkySums, sky: Sky, x: Floats, grid: Floats) -> Floats:
    """chi2 ``[grid, O]``; see :func:`calib_gpu.physics.sky_sums.chi2_grid`."""
    n_off, n = sums.yy.shape
    n_channel = sky.bands[0].b.size
    has_image = np.int32(len(sky.bands) > 1)
    first = np.arange(n + 1) if sky.bins is None else np.append(sky.bins, n_channel)
    up = Layout()
    for name in SUMS:
        up.add(name, (n_off, n), np.float64)
    up.add("first", (n + 1,), np.int32)
    arrays: dict[str, NDArray[Any]] = {name: getattr(sums, name) for name in SUMS} | {"first": first}
    model = _slab(up, arrays, sky, x, grid) if isinstance(sky.bands[0], Slab) else _layers(up, arrays, sky, x, grid)
    work, down = Layout(), Layout().add("chi2", (n_off, grid.size), np.float64).add("constant", (n_off,), np.float64)
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
    sizes = (np.int64(grid.size), np.int64(n))
    kernel, arguments = model(source, has_image)
    desk.launch(
        kernel, (n_off * grid.size, n), *squares[:-1], *arguments, *sizes, down.view("chi2", target),
        reads=(source, between), writes=(target,),
    )  # fmt: skip
    memory = desk.download(target, down.nbytes)
    chi2: Floats = (down.array("chi2", memory) + down.array("constant", memory)[:, None]).T
    return np.ascontiguousarray(chi2)


Model = Callable[[Block, np.int32], tuple[str, list[Argument]]]
"""The kernel for a kind of sky, and its arguments between the squares and the sizes, once the inputs are on the device."""


def _slab(up: Layout, arrays: dict[str, NDArray[Any]], sky: Sky, x: Floats, grid: Floats) -> Model:
    """A slab: its transmission is calculated where it is needed."""
    n_channel = sky.bands[0].b.size
    arrays |= {"grid": grid, "x": x}
    up.add("grid", grid.shape, np.float64).add("x", x.shape, np.float64)
    names = ["grid", "x", "first"]
    for side, band in zip(("signal", "image"), (sky.bands[0], sky.bands[-1]), strict=True):
        assert isinstance(band, Slab)
        for name, values in ((f"b_{side}", band.b), (f"c_{side}", band.c)):
            arrays[name] = values
            up.add(name, (n_channel,), np.float64)
            names.append(name)
    return lambda source, has_image: ("chi2_slab", [*(up.view(name, source) for name in names), has_image])


def _layers(up: Layout, arrays: dict[str, NDArray[Any]], sky: Sky, x: Floats, grid: Floats) -> Model:
    """Layers: their emission at a few nodes comes from the host, and is interpolated between them."""
    nodes = Nodes.of(grid)
    n_channel, n_node = sky.bands[0].b.size, nodes.pwv.size
    arrays |= {"node": nodes.first, "weights": nodes.weights}
    up.add("node", nodes.first.shape, np.int32).add("weights", nodes.weights.shape, np.float64)
    names = ["node", "weights", "first"]
    for side, band in zip(("q_signal", "q_image"), (sky.bands[0], sky.bands[-1]), strict=True):
        arrays[side] = np.array([[band.value(float(w), float(of_off)) for w in nodes.pwv] for of_off in x])
        up.add(side, (x.size, n_node, n_channel), np.float64)
        names.append(side)
    sizes: list[Argument] = [np.int32(nodes.weights.shape[1]), np.int64(n_node), np.int64(n_channel)]
    return lambda source, has_image: ("chi2_layers", [*(up.view(name, source) for name in names), has_image, *sizes])
