"""A backend on any device: loads, OFFs, sky signal and PWV grid as launches of kernels; tiles go through ``stream.py``.

The calls here are synchronous: arrays go up, kernels run, results come back, on a stream of their own. They are
made for the small part of a scan, before its first tile.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from calib_gpu.backend.base import BadChannelRule, TileResult
from calib_gpu.backend.chi2_launches import chi2_launches
from calib_gpu.backend.device import Argument, Block, Device, HostBlock, Layout, View
from calib_gpu.backend.kernels import KERNELS
from calib_gpu.backend.tile import TileLayout, rule_arguments
from calib_gpu.errors import DeviceLost
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.physics.loads import DEAD_PIXEL_FRACTION, LoadPowers
from calib_gpu.physics.sky import Sky
from calib_gpu.physics.sky_sums import SkyData, SkySums
from calib_gpu.records import DumpStats, Floats

B = TypeVar("B", bound=Block)
P = ParamSpec("P")
R = TypeVar("R")


class Desk:
    """What one synchronous task needs: a stream, an event, and blocks that grow to the largest task."""

    def __init__(self, device: Device) -> None:
        self.device, self.stream, self.event = device, device.stream("desk"), device.event()
        self._host: dict[str, HostBlock] = {}
        self._device: dict[str, Block] = {}
        self._begun = False

    def host(self, name: str, nbytes: int) -> HostBlock:
        """A page-locked block of at least so many bytes."""
        return self._grown(self._host, name, nbytes, self.device.pinned)

    def block(self, name: str, nbytes: int) -> Block:
        """A device block of at least so many bytes."""
        return self._grown(self._device, name, nbytes, self.device.empty)

    def _grown(self, held: dict[str, B], name: str, nbytes: int, make: Callable[[int], B]) -> B:
        if name not in held or held[name].nbytes < nbytes:
            if name in held:
                self.device.release(held.pop(name))
            held[name] = make(max(nbytes, 1))
        return held[name]

    def upload(self, layout: Layout, arrays: Mapping[str, Any], name: str = "in") -> Block:
        """Fill a block; arrays are broadcast to their places."""
        staging, target = self.host(name, layout.nbytes), self.block(name, layout.nbytes)
        memory = staging.write()
        for key, values in arrays.items():
            layout.array(key, memory)[...] = values
        self._begun = True
        self.device.upload(target, staging, layout.nbytes, self.stream)
        return target

    def clear(self, view: View) -> None:
        """Set a part of a block to zero bytes."""
        self._begun = True
        self.device.clear(view, self.stream)

    def launch(
        self, kernel: str, size: tuple[int, ...], *arguments: Argument, reads: Iterable[Block], writes: Iterable[Block]
    ) -> None:
        """Run a kernel."""
        self.device.launch(KERNELS[kernel], size, arguments, self.stream, reads=tuple(reads), writes=tuple(writes))

    def download(self, block: Block, nbytes: int) -> NDArray[np.uint8]:
        """Wait for all that was begun; the first bytes of a block, until the next task at this desk."""
        target = self.host("out", nbytes)
        self.device.download(target, block, nbytes, self.stream)
        self.wait()
        return target.read()

    def wait(self) -> None:
        """Wait for all that was begun."""
        self.device.record(self.event, self.stream)
        self.device.synchronize(self.event)
        self._begun = False

    def settle(self) -> None:
        """Wait for what a task has begun that failed half-way: its blocks are used again, or given back."""
        if self._begun:
            self.wait()

    def close(self) -> None:
        """Give the blocks back."""
        self.settle()
        for block in (*self._host.values(), *self._device.values()):
            self.device.release(block)
        self._host.clear()
        self._device.clear()


def _at_a_desk(
    task: Callable[Concatenate[DeviceBackend, Desk, P], R],
) -> Callable[Concatenate[DeviceBackend, P], R]:
    """A method that is given a desk for as long as it runs."""

    @functools.wraps(task)
    def run(backend: DeviceBackend, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with backend.desk() as desk:
            return task(backend, desk, *args, **kwargs)

    return run


class DeviceBackend:
    """See :class:`calib_gpu.backend.base.Backend`."""

    def __init__(self, device: Device) -> None:
        self.device: Device | None = device
        self._device = device
        self.name = device.name
        self._desks: list[Desk] = []
        self._free: list[Desk] = []
        self._lock = threading.Lock()

    def describe(self) -> str:
        """The device."""
        return self._device.describe()

    def close(self) -> None:
        """Give all memory back; no call may be under way."""
        with contextlib.suppress(DeviceLost):  # then there is nothing to give back
            for desk in self._desks:
                desk.close()
        self._device.close()

    @contextlib.contextmanager
    def desk(self) -> Iterator[Desk]:
        """A desk for one task: as many are made as tasks run at a time."""
        with self._lock:
            if self._free:
                desk = self._free.pop()
            else:
                desk = Desk(self._device)
                self._desks.append(desk)
        try:
            desk.settle()
            yield desk
        finally:
            with self._lock:
                self._free.append(desk)

    @_at_a_desk
    def dump_mean(
        self,
        desk: Desk,
        counts: NDArray[Any],
        rule: SampleRule,
        n_dump: int,
        *,
        want_first: bool = False,
        want_band: bool = False,
    ) -> DumpStats:
        """Sums over the valid dumps of a tile."""
        n_r, n_a, c, d = counts.shape
        p = n_r * n_a
        up = Layout().add("counts", counts.shape, counts.dtype)
        work = Layout().add("census", (p, d), np.int64).add("first_dump", (p,), np.int32)
        down = Layout()
        for name, shape, dtype in _DUMP_RESULTS:
            down.add(name, tuple({"p": p, "c": c, "d": d}[axis] for axis in shape), dtype)
        source, between, target = (
            desk.upload(up, {"counts": counts}),
            desk.block("work", work.nbytes),
            desk.block("out", down.nbytes),
        )
        of = {name: down.view(name, target) for name, _, _ in _DUMP_RESULTS}
        v_counts, census, first = (
            up.view("counts", source),
            work.view("census", between),
            work.view("first_dump", between),
        )
        rules, n_c, n_d = rule_arguments(rule, n_dump), np.int64(c), np.int32(d)
        desk.launch("census", (p * d, c), v_counts, n_c, n_d, *rules, census, reads=(source,), writes=(between,))
        desk.launch(
            "unpack_census", (p * d,), census, n_c, of["dump_valid"], of["dump_missing"], of["dump_empty"],
            reads=(between,), writes=(target,),
        )  # fmt: skip
        desk.launch("first_dump", (p,), of["dump_valid"], n_d, first, reads=(target,), writes=(between,))
        desk.launch(
            "dump_sums", (p * c,), v_counts, first, n_c, n_d, *rules, of["total"], of["valid"], of["first"],
            reads=(source, between), writes=(target,),
        )  # fmt: skip
        if want_band:
            desk.launch(
                "band_means", (p * d,), v_counts, n_c, n_d, *rules, of["band"], reads=(source,), writes=(target,)
            )
        memory = desk.download(target, down.nbytes if want_first else down.offset("first"))

        def pixels(name: str) -> NDArray[Any]:
            """[P, C] as [C, R, A], its channels contiguous."""
            return np.moveaxis(down.array(name, memory).reshape(n_r, n_a, c).copy(), -1, 0)

        missing, empty = down.array("dump_missing", memory), down.array("dump_empty", memory)
        return DumpStats(
            pixels("total"),
            pixels("valid"),
            pixels("first") if want_first else None,
            down.array("band", memory).reshape(n_r, n_a, d).transpose(2, 0, 1).copy() if want_band else None,
            np.any(down.array("dump_valid", memory) > 0, axis=0),
            np.any(empty == 0, axis=0),
            missing.sum(axis=0),
        )

    @_at_a_desk
    def load_calibration(
        self, desk: Desk, hot: Floats, cold: Floats, zero: Floats | float, powers: LoadPowers, g_signal: Floats, g_image: Floats,
        eta_f: float, rule: BadChannelRule,
    ) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:  # fmt: skip
        """Gain, gamma, T_rec and bad channels of one pixel."""
        c = hot.size
        inputs = {
            "hot": hot, "cold": cold, "zero": zero, "hot_signal": powers.hot_signal, "hot_image": powers.hot_image,
            "cold_signal": powers.cold_signal, "cold_image": powers.cold_image, "g_signal": g_signal, "g_image": g_image,
        }  # fmt: skip
        up, down = Layout(), Layout()
        for name in inputs:
            up.add(name, (c,), np.float64)
        for name in ("gain", "gamma", "trec", "trec_ssb", "difference"):
            down.add(name, (c,), np.float64)
        down.add("bad", (c,), np.uint8)
        work = Layout().add("mean", (c,), np.float64).add("largest", (1,), np.float64).add("n_bad", (1,), np.int64)
        work.add("middle", (2,), np.float64)
        source, target = desk.upload(up, inputs), desk.block("out", down.nbytes)
        between = desk.block("work", work.nbytes)
        of = {name: down.view(name, target) for name in ("gain", "gamma", "trec", "trec_ssb", "difference", "bad")}
        mean, largest, n_bad, middle = (work.view(name, between) for name in ("mean", "largest", "n_bad", "middle"))
        saturation, n = np.float64(math.inf if rule.saturation is None else rule.saturation), np.int64(c)
        edge = np.int64(rule.edge_fraction * c)
        both = {"reads": (target, between), "writes": (target, between)}

        views = (up.view(name, source) for name in inputs)
        desk.launch(
            "load_terms", (c,), *views, np.float64(eta_f), saturation, *of.values(), reads=(source,), writes=(target,)
        )
        desk.launch("running_mean", (c,), of["difference"], n, np.int32(rule.smooth_width), mean, **both)
        desk.launch("largest", (1, c), mean, largest, **both)
        desk.launch(
            "bad_contrast",
            (c,),
            of["difference"],
            of["trec_ssb"],
            largest,
            np.float64(rule.clip_counts),
            of["bad"],
            **both,
        )
        desk.launch("count_bad", (1, c), of["bad"], n_bad, **both)
        desk.launch("median", (c,), of["trec_ssb"], of["bad"], n_bad, n, middle, **both)
        desk.launch(
            "bad_trec", (c,), of["trec_ssb"], middle, n_bad, np.float64(rule.clip_trec), edge, n, of["bad"], **both
        )
        desk.launch("count_bad", (1, c), of["bad"], n_bad, **both)
        desk.launch("whole_if_mostly_bad", (c,), n_bad, np.float64(DEAD_PIXEL_FRACTION), n, of["bad"], **both)
        memory = desk.download(target, down.nbytes)
        gain, gamma, trec = (down.array(name, memory).copy() for name in ("gain", "gamma", "trec"))
        return gain, gamma, trec, down.array("bad", memory) != 0

    @_at_a_desk
    def sky_signal(self, desk: Desk, off: Floats, hot: Floats, gain: Floats) -> Floats:
        """S_H,obs of one pixel."""
        arrays = {"off": off, "hot": hot, "gain": gain}
        up, down = Layout(), Layout().add("observed", off.shape, np.float64)
        for name in arrays:
            up.add(name, off.shape, np.float64)
        source, target = desk.upload(up, arrays), desk.block("out", down.nbytes)
        views = (up.view(name, source) for name in arrays)
        desk.launch("sky_signal", (off.size,), *views, down.view("observed", target), reads=(source,), writes=(target,))
        return down.array("observed", desk.download(target, down.nbytes)).copy()

    @_at_a_desk
    def sky_sums(self, desk: Desk, n_off: int, n_channel: int, pixels: Iterable[SkyData]) -> SkySums:
        """The sums of the PWV fit, pixel by pixel."""
        shape, n = (n_off, n_channel), np.int64(n_channel)
        sums = Layout()
        for name in SkySums.__dataclass_fields__:
            sums.add(name, shape, np.int64 if name == "n" else np.float64)
        target = desk.block("sums", sums.nbytes)
        whole = Layout().add("all", (sums.nbytes,), np.uint8).view("all", target)
        desk.clear(whole)
        for data in pixels:
            arrays = {
                "observed": data.observed, "bad": data.bad, "weights": 1.0 if data.weights is None else data.weights,
                "k0": data.model.k0, "a_signal": data.model.a_signal, "a_image": data.model.a_image,
            }  # fmt: skip
            up = Layout().add("observed", shape, np.float64).add("bad", shape, np.uint8)
            up.add("weights", shape if data.weights is not None else (1,), np.float64)
            for name in ("k0", "a_signal", "a_image"):
                up.add(name, (n_channel,), np.float64)
            source = desk.upload(up, arrays, "pixel")
            views = (up.view(name, source) for name in arrays)
            unit = np.int32(data.weights is None)
            out = (sums.view(name, target) for name in SkySums.__dataclass_fields__)
            desk.launch(
                "sky_sums", (n_off * n_channel,), *views, unit, n, *out, reads=(source, target), writes=(target,)
            )
            desk.wait()  # the staging block is filled anew for the next pixel
        memory = desk.download(target, sums.nbytes)
        return SkySums(*(sums.array(name, memory).copy() for name in SkySums.__dataclass_fields__))

    @_at_a_desk
    def pwv_grid(self, desk: Desk, sums: SkySums, sky: Sky, x: Floats, grid: Floats) -> Floats:
        """chi2 of every grid point and OFF, in one chain of launches."""
        return chi2_launches(desk, sums, sky, x, grid)

    @_at_a_desk
    def calibrate_tile(
        self, desk: Desk, on: NDArray[Any], ref: Floats, factor: Floats, base: NDArray[np.uint16], quantum: Floats,
        rule: SampleRule, n_dump: int, spectra: NDArray[Any], flags: NDArray[np.uint16],
    ) -> TileResult:  # fmt: skip
        """T_A* and flags of one tile, alone: the tile loop of a scan is in :mod:`calib_gpu.stream`."""
        r, a, c, d = on.shape
        layout = TileLayout(r, a, c, d, spectra.shape[2], spectra.shape[4], on.dtype, spectra.dtype)
        arrays = {"counts": on, "ref": ref, "factor": factor, "base": base, "quantum": quantum}
        source, target = desk.upload(layout.input, arrays), desk.block("out", layout.output.nbytes)
        desk.clear(layout.sums(target))
        desk.launch(
            "calibrate_tile", layout.size, *layout.arguments(source, target, rule, n_dump),
            reads=(source, target), writes=(target,),
        )  # fmt: skip
        memory = desk.download(target, layout.output.nbytes)
        spectra[...], flags[...] = layout.output.array("spectra", memory), layout.output.array("flags", memory)
        return layout.result(memory)


_DUMP_RESULTS: tuple[tuple[str, str, DTypeLike], ...] = (
    ("total", "pc", np.float64), ("valid", "pc", np.int64), ("dump_valid", "pd", np.int64),
    ("dump_missing", "pd", np.int64), ("dump_empty", "pd", np.uint8), ("band", "pd", np.float64), ("first", "pc", np.float64),
)  # fmt: skip
"""What comes back of a subscan, in the order of the block: ``first`` is left behind where it is not wanted."""
