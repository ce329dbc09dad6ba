"""Stage 4, prepare: which OFF serves which ON, and the one factor of every sample."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import NoReference
from calib_gpu.modes import pair
from calib_gpu.physics import loads as load_physics
from calib_gpu.physics.atmosphere import airmass, transmission
from calib_gpu.physics.calibration import combine, factor, radiometer_quantum, system_temperature
from calib_gpu.records import Atmosphere, Floats, OffSpectra, Pairing, Receiver, Scan, Tile
from calib_gpu.schema import Flag, ScanFlag
from calib_gpu.settings import Settings
from calib_gpu.stages.load import dump_time
from calib_gpu.stages.resolve import ResolvedLoads
from calib_gpu.store.pixel_arrays import release

MAX_AIRMASS_DIFFERENCE = 0.01


@dataclass(frozen=True)
class TileFactors:
    """What a tile needs beside its counts; all ``[R, A, C]``.

    ``factor`` K/count with transmission, ``ref`` counts, ``base`` flag bits of all dumps, ``t_sys`` K.
    """

    factor: Floats
    ref: Floats
    base: NDArray[np.uint16]
    t_sys: Floats


class _LastOfThread(threading.local):
    """The transmission that this thread needed last: a lane takes its tiles from one ON subscan."""

    def __init__(self) -> None:
        self._on, self._value = -1, np.empty(0)

    def of(self, on: int, make: Callable[[int], Floats]) -> Floats:
        """That of an ON subscan, made where it is another one than before."""
        if on != self._on:
            self._on, self._value = on, make(on)
        return self._value


@dataclass(frozen=True)
class Factors:
    """The scan's maths, collapsed: T_A* = (on - ref) * factor / t_s, plus flags.

    ``pairing`` gives subscan numbers, ``slots`` [S_on,2] the positions of the references in ``offs``;
    ``airmass`` and ``reference_airmass`` [S_on] are those of each ON and its reference. ``resolved`` has the loads:
    the calibration where one set serves the whole scan, else the sets to interpolate between.
    """

    scan: Scan
    resolved: ResolvedLoads
    rx: Receiver
    offs: OffSpectra
    pairing: Pairing
    slots: NDArray[np.int64]
    airmass: Floats
    reference_airmass: Floats
    tau_signal: Floats
    t_min: float
    scan_flags: int
    precision_bits: int | None
    bandwidth: float
    in_sight: _LastOfThread = field(default_factory=_LastOfThread, repr=False, compare=False)

    @property
    def bad(self) -> NDArray[np.bool_]:
        """Bad channels ``[C, R, A]``."""
        return self.resolved.calibration.bad

    def transmission(self, on: int) -> Floats:
        """Transmission of the signal band ``[C]`` along the line of sight of an ON subscan."""
        return np.ones_like(self.tau_signal) if self.no_sky else transmission(self.tau_signal, self.airmass[on])

    @property
    def no_sky(self) -> bool:
        """True without atmosphere."""
        return not self.tau_signal.any()

    def reference(self, on: int, r: slice, a: slice) -> Floats:
        """Reference spectrum of an ON ``[R, A, C]``, counts; NaN where it is missing."""
        first, second = (self.offs.reference[:, r, a, k] for k in self.slots[on])
        weights = (float(self.pairing.weight[on, 0]), float(self.pairing.weight[on, 1]))
        return np.moveaxis(combine(first, second, weights), 0, -1)

    def of_tile(self, tile: Tile) -> TileFactors:
        """Factor, reference, flags and T_sys of a tile."""
        t_s = self.in_sight.of(tile.on, self.transmission)
        ref = self.reference(tile.on, tile.r, tile.a)
        k = self._factor(tile)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            through_sky = k / t_s
        bad = np.moveaxis(self.bad[:, tile.r, tile.a], 0, -1)
        opaque = t_s < self.t_min
        base = np.where(bad, np.uint16(Flag.BAD_CHANNEL), np.uint16(0))
        base |= np.where(np.isnan(ref), np.uint16(Flag.NO_REFERENCE), np.uint16(0))
        base |= np.where(opaque, np.uint16(Flag.OPAQUE), np.uint16(0))
        zero = self.resolved.calibration.zero
        level = np.moveaxis(zero[:, tile.r, tile.a], 0, -1) if isinstance(zero, np.ndarray) else zero
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            t_sys = system_temperature(ref, level, through_sky)
        t_sys = np.where((base == 0) & np.isfinite(t_sys), t_sys, np.nan)
        return TileFactors(through_sky, ref, base, t_sys)

    def quantum(self, tile: Tile, t_sys: Floats, counts: NDArray[Any]) -> Floats:
        """The power of two that T_A* of a tile is rounded to ``[R, A]``, K; 0 for none. ``counts`` are [R,A,C,D]."""
        out = np.zeros(t_sys.shape[:2])
        if self.precision_bits is None:
            return out
        source = self.scan.source
        sub = source.subscans[tile.subscan]
        for pixel in np.ndindex(out.shape):
            # each pixel's own dumps: how the scan is cut into tiles changes nothing
            t_dump = dump_time(source, sub, source.rule.dumps_present(counts[pixel]))
            out[pixel] = radiometer_quantum(t_sys[pixel], self.bandwidth, t_dump, self.precision_bits)
        return out

    def release(self, tile: Tile) -> None:
        """Let go of the memory that a tile used of arrays that lie in files."""
        cal = self.resolved.calibration
        sets = [v for s in self.resolved.loads.sets for v in (s.hot, s.cold)]
        zero = [cal.zero] if isinstance(cal.zero, np.ndarray) else []
        release(*(v[:, tile.r, tile.a] for v in (cal.gamma, *sets, *zero, self.offs.reference)))

    def _factor(self, tile: Tile) -> Floats:
        """Gamma / (C_h - C_c) ``[R, A, C]``, K/count, at the time of the ON subscan."""
        if len(self.resolved.loads.sets) == 1:
            cal = self.resolved.calibration
            of_tile = (np.moveaxis(v[:, tile.r, tile.a], 0, -1) for v in (cal.gamma, cal.hot, cal.cold))
            return factor(*of_tile)
        source = self.scan.source
        powers, weight = self.resolved.powers_at(source.epoch_us + source.subscans[tile.subscan].time_us)
        first, second = self.resolved.loads.sets
        out = np.empty((tile.r.stop - tile.r.start, tile.a.stop - tile.a.start, self.tau_signal.size))
        for i, j in np.ndindex(out.shape[:2]):
            pixel = (slice(None), tile.r.start + i, tile.a.start + j)
            hot = (1.0 - weight) * first.hot[pixel] + weight * second.hot[pixel]
            cold = (1.0 - weight) * first.cold[pixel] + weight * second.cold[pixel]
            out[i, j] = factor(load_physics.gamma(powers, *self.rx.gains.pixel(*pixel[1:]), self.rx.eta_f), hot, cold)
        return out


def pair_subscans(scan: Scan, offs: OffSpectra, settings: Settings) -> Pairing:
    """Pair the ON subscans with the OFFs that have a valid dump."""
    on, off = scan.source.of_kind("ON"), {s.index: s for s in scan.source.subscans}
    if not scan.source.of_kind("OFF"):
        raise NoReference(
            "no OFF subscan",
            array="source/sobsmode",
            rule="at least one OFF, OTF-OFF or REF",
            fix="without an OFF a scan cannot be calibrated",
        )
    stored = settings.pair_on == "mjd"
    return pair(
        [(s.index, s.stored_us if stored else s.time_us) for s in on],
        [(i, off[i].stored_us if stored else off[i].time_us) for i in offs.index],
        settings.reference,
    )


def on_airmass(scan: Scan, atmosphere: Atmosphere, settings: Settings) -> Floats:
    """Airmass of each ON ``[S_on]``; NaN where there is neither atmosphere nor elevation."""
    elevation = np.array([s.elevation for s in scan.source.of_kind("ON")])
    if atmosphere.status == "none" and "elevation" not in scan.source.arrays:
        return np.full(elevation.shape, np.nan)
    x = airmass(elevation, settings.airmass, settings.shell_height_km)
    return np.full_like(x, x.mean()) if settings.airmass_mode == "scan_mean" else x


def off_airmass(scan: Scan, offs: OffSpectra, atmosphere: Atmosphere, settings: Settings) -> Floats:
    """Airmass of each OFF that is used ``[S_off]``; NaN without atmosphere, where their elevations are not tested."""
    if atmosphere.status == "none":
        return np.full(len(offs.index), np.nan)
    elevation = {s.index: s.elevation for s in scan.source.subscans}
    return airmass([elevation[i] for i in offs.index], settings.airmass, settings.shell_height_km)


def prepare(
    scan: Scan, offs: OffSpectra, pairing: Pairing, resolved: ResolvedLoads, rx: Receiver, atmosphere: Atmosphere,
    settings: Settings,
) -> Factors:  # fmt: skip
    """Collapse the scan's maths into factors and references."""
    position = {index: k for k, index in enumerate(offs.index)}
    slots = np.array([[position[int(i)] for i in row] for row in pairing.ref], np.int64).reshape(-1, 2)
    x = on_airmass(scan, atmosphere, settings)
    x_ref, flags = (
        (np.full_like(x, np.nan), 0) if atmosphere.status == "none" else _reference_airmass(scan, pairing, settings)
    )
    return Factors(
        scan, resolved, rx, offs, pairing, slots, x, x_ref, atmosphere.tau_signal, settings.t_min, flags,
        settings.precision_bits, abs(scan.source.tuning.spacing) * settings.enbw,
    )  # fmt: skip


def _reference_airmass(scan: Scan, pairing: Pairing, settings: Settings) -> tuple[Floats, int]:
    """Weighted airmass of each reference ``[S_on]``; scan flag if that of an ON differs by more than 1 % from any OFF's."""
    x = {
        index: float(airmass(scan.source.subscans[index].elevation, settings.airmass, settings.shell_height_km))
        for index in {*pairing.on.tolist(), *pairing.ref.ravel().tolist()}
    }
    x_on = np.array([x[i] for i in pairing.on.tolist()])
    x_ref = np.array([[x[i] for i in row] for row in pairing.ref.tolist()])
    differs = (pairing.weight > 0.0) & (np.abs(x_on[:, None] - x_ref) > MAX_AIRMASS_DIFFERENCE * x_ref)
    return (x_ref * pairing.weight).sum(axis=1), int(ScanFlag.ELEVATION_MISMATCH) if differs.any() else 0
