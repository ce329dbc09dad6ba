"""Takes one sample through the stages of the engine, and notes every number on its way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calib_gpu.backend import get_backend
from calib_gpu.errors import CalibError, ConfigError
from calib_gpu.explain.reasons import bad_channel_reasons, reasons
from calib_gpu.explain.steps import (
    Reading,
    Step,
    load_steps,
    power_steps,
    powers_of,
    reference_steps,
    sky_steps,
)
from calib_gpu.load_index import LoadIndex
from calib_gpu.records import CountGroup, ScanId, Tile
from calib_gpu.scan_report import ScanReport
from calib_gpu.scan_run import LoadedScan, ScanRunner
from calib_gpu.selection import is_science
from calib_gpu.settings import Settings
from calib_gpu.stages.atmosphere import check_table, fit_atmosphere
from calib_gpu.stages.prepare import Factors, prepare
from calib_gpu.stages.resolve import ResolvedLoads, receiver, resolve
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.l0 import open_l0
from calib_gpu.store.l1_store import published_scans
from calib_gpu.store.metadata import group_attrs
from calib_gpu.workers import Workers, read_tile


@dataclass(frozen=True)
class Place:
    """A sample of L1: channel, pixel (r, a), dump, and ``s`` among the ON subscans."""

    c: int
    r: int
    a: int
    d: int
    s: int

    @property
    def index(self) -> tuple[int, int, int, int, int]:
        """Its index in ``spectra`` and ``flags`` [C,D,R,A,S]."""
        return self.c, self.d, self.r, self.a, self.s


@dataclass(frozen=True)
class Explanation:
    """How one sample came about.

    Attributes
    ----------
    scan, place, subscan
        Where it is; ``subscan`` is the number in L0.
    parts
        Titles and steps of the calculation.
    value
        T_A* as the steps give it, K, flagged or not.
    flags, reasons
        Flag word, and name and reason of each bit.
    written
        T_A* as the engine writes it, K: NaN if a flag is set.
    l1
        T_A* and flags that an L1 store holds; None without one.
    notes
        What else is to be known.
    """

    scan: ScanId
    place: Place
    subscan: int
    parts: tuple[tuple[str, tuple[Step, ...]], ...]
    value: float
    flags: int
    reasons: tuple[tuple[str, str], ...]
    written: float
    l1: tuple[float, int] | None
    notes: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """True if the steps give what the engine writes, and that is what L1 holds, to the last digit."""
        same = self.flags != 0 or self.value == self.written
        return same and (self.l1 is None or (_same(self.l1[0], self.written) and self.l1[1] == self.flags))


def explain(l0: Path, scan: ScanId, place: Place, settings: Settings, l1: Path | None = None) -> Explanation:
    """Explain one sample.

    Parameters
    ----------
    l0, scan, place
        The store of raw counts, and the sample.
    settings
        Those of the run. With ``l1`` only the path of the opacity table is taken from them, where one is given.
    l1
        The calibrated store that the result is held against; its settings are used.

    Raises
    ------
    ConfigError
        There is no such scan or sample, or the settings of L1 cannot be had again.
    ScanFailure
        The scan cannot be calibrated.
    """
    store = open_l0(l0, settings)
    if scan not in (ids := store.scan_ids()):
        bands = [s for s in ids if s.number == scan.number]
        rule = f"one of its bands: {', '.join(map(str, bands))}" if bands else f"{len(ids)} scans of {l0.name}"
        raise ConfigError("not in the store", array="SCAN", value=str(scan), rule=rule, fix="see calib-gpu inspect")
    if not is_science(store, scan):
        raise ConfigError("holds no ON subscan", array=str(scan), rule="a science scan", fix="see calib-gpu inspect")
    done = None if l1 is None else _attributes(l1, scan)
    if done is not None:
        settings = settings_of(
            done, {"atmosphere": settings.atmosphere} if settings.layer("atmosphere") != "default" else {}
        )
    check_table(settings)
    workers = Workers(1)
    try:
        runner = ScanRunner(
            store, LoadIndex.of(store, settings), settings, get_backend(settings.backend), workers, None
        )
        return _Sample(runner, scan, place).explanation(l1, done)
    except CalibError as error:
        raise error.at(str(scan)) from None
    finally:
        workers.close()


def settings_of(attributes: dict[str, Any], more: dict[str, Any]) -> Settings:
    """The settings that a scan of L1 was made with, from its attributes; ``more`` gives the path of its opacity table.

    Raises
    ------
    ConfigError
        They are not there, or not those whose digest stands beside them: another version wrote them.
    """
    try:
        values, origin = json.loads(attributes["settings"]), dict(attributes["settings_from"])
        settings = Settings(origin=origin, **(values | more))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"settings of L1 cannot be read: {error}", array="settings") from None
    if settings.digest() != attributes.get("settings_digest"):
        raise ConfigError(
            "settings of L1 are not understood", array="settings_digest", value=attributes.get("engine_version"),
            rule="written by this version", fix="give the settings of the run with --set, --config and --profile",
        )  # fmt: skip
    return settings


def _attributes(l1: Path, scan: ScanId) -> dict[str, Any]:
    if scan not in published_scans(l1):
        raise ConfigError("not in the L1 store", array=str(l1), value=str(scan), fix="calibrate it: calib-gpu run")
    return group_attrs(l1 / scan.path)


class _Sample:
    """The stages of one scan, up to the tile of one pixel."""

    def __init__(self, runner: ScanRunner, scan: ScanId, place: Place) -> None:
        self.runner, self.place = runner, place
        settings, backend, report = runner.settings, runner.backend, ScanReport(str(scan))
        self.loaded: LoadedScan = runner.load(scan, report)
        loaded, source = self.loaded, self.loaded.scan.source
        _check(place, (*source.shape[:4], len(loaded.pairing.on)))
        rx = receiver(source, settings)
        self.resolved: ResolvedLoads = resolve(loaded.scan, loaded.loads, rx, settings, backend, runner.reader)[0]
        self.atmosphere = fit_atmosphere(loaded.scan, loaded.offs, self.resolved, rx, settings, backend)
        self.factors: Factors = prepare(
            loaded.scan, loaded.offs, loaded.pairing, self.resolved, rx, self.atmosphere, settings
        )
        self.pixel = (place.c, place.r, place.a)
        self.subscan = int(loaded.pairing.on[place.s])

    def explanation(self, l1: Path | None, done: dict[str, Any] | None) -> Explanation:
        place, settings, source = self.place, self.runner.settings, self.loaded.scan.source
        count, written, flags, t_sys, quantum = self._engine()
        offs = self._offs()
        loads, powers = self._loads()
        reference = reference_steps(self.factors, place.s, offs, self.pixel)
        sky = sky_steps(self.factors, self.atmosphere, place.s, place.c, settings)
        values = {s.symbol: float(s.value) for s in (*loads, *powers, *reference, *sky)}
        result = self._result(count, values, t_sys, quantum)
        why = self._reasons(flags, count, offs, values["t_s"])
        notes = [*self.loaded.report.warnings, *self.atmosphere.warnings]
        if self.atmosphere.pwv is not None:
            notes.insert(0, f"pwv: {self.atmosphere.status}, taken from {self.atmosphere.source}")
        if done is not None and (differs := self.runner.difference(done)):
            notes.append(f"L1 was made otherwise: {differs}")
        n_dump = source.subscans[self.subscan].n_dump
        where = f"source, subscan {self.subscan}, dump {place.d}" + ("" if n_dump is None else f" of {n_dump}")
        parts = (
            ("ON", (Step("n_on", count, "counts", source=where),)),
            ("reference", tuple(reference)),
            ("loads", tuple(loads)),
            ("gamma", tuple(powers)),
            ("atmosphere", tuple(sky)),
            ("result", tuple(result)),
        )
        value = next(float(s.value) for s in result if s.symbol == "T_A")
        held = None if l1 is None else _read(l1 / self.loaded.scan.id.path, place)
        return Explanation(
            self.loaded.scan.id, place, self.subscan, parts, value, flags, tuple(why), written, held, tuple(notes)
        )

    def _engine(self) -> tuple[Any, float, int, float, float]:
        """ON count, T_A* and flags as the engine makes them from the tile of this pixel, T_sys, and the quantum."""
        place, runner, source = self.place, self.runner, self.loaded.scan.source
        r, a = slice(place.r, place.r + 1), slice(place.a, place.a + 1)
        tile = Tile(place.s, self.subscan, r, a)
        k = self.factors.of_tile(tile)
        counts, _ = read_tile(runner.workers, source, self.subscan, r, a)
        spectra = np.empty(counts.shape, runner.settings.dtype)
        flags = np.empty(counts.shape, np.uint16)
        n_dump = source.subscans[self.subscan].n_dump
        dumps = source.shape[1] if n_dump is None else n_dump
        quantum = self.factors.quantum(tile, k.t_sys, counts)
        blocks = (spectra[:, :, None], flags[:, :, None])  # one block of all dumps
        runner.backend.calibrate_tile(counts, k.ref, k.factor, k.base, quantum, source.rule, dumps, *blocks)
        where = (0, 0, place.c, place.d)
        t_sys, q = float(k.t_sys[0, 0, place.c]), float(quantum[0, 0])
        return counts[where].item(), float(spectra[where]), int(flags[where]), t_sys, q

    def _offs(self) -> list[Reading]:
        """Counts of the OFFs of weight > 0."""
        pairing, source = self.loaded.pairing, self.loaded.scan.source
        used = [int(i) for i, w in zip(pairing.ref[self.place.s], pairing.weight[self.place.s], strict=True) if w > 0.0]
        return [Reading.of(self.runner.workers, source, source.subscans[i], *self.pixel) for i in used]

    def _loads(self) -> tuple[list[Step], list[Step]]:
        """Steps of the load counts and of the load powers."""
        by_scan = self.runner.index.by_scan
        powers, weight = powers_of(self.factors, self.resolved, self.subscan)

        def readings(group: CountGroup) -> dict[str, list[Reading]]:
            return {
                name: [Reading.of(self.runner.workers, group, s, *self.pixel) for s in group.of_kind(name.upper())]
                for name in ("hot", "cold")
            }

        steps = load_steps([(s, readings(by_scan[s.scan].group)) for s in self.loaded.loads.sets], weight, self.pixel)
        given = all(s.override is not None for s in self.loaded.loads.sets)
        return steps, power_steps(self.factors, powers, self.pixel, given=given)

    def _result(self, count: Any, values: dict[str, float], t_sys: float, quantum: float) -> list[Step]:
        """The factor, T_A* and T_sys: the arithmetic of the engine, operation by operation."""
        with np.errstate(all="ignore"):
            factor = float(np.float64(values["gamma"]) / (np.float64(values["n_hot"]) - values["n_cold"]))
            through_sky = float(np.float64(factor) / values["t_s"])
            value = float((np.float64(count) - values["n_ref"]) * through_sky)
        formula, rounding = "(n_on - n_ref) * factor_sky", []
        if quantum and np.isfinite(value):
            value, formula = float(np.rint(value / quantum) * quantum), f"round({formula} / q) * q"
            bits = self.runner.settings.precision_bits
            why = f"setting precision: the power of two <= 2^-{bits} of the radiometer noise of a dump"
            rounding = [Step("q", quantum, "K", source=why)]
        if self.runner.settings.dtype == "float32":
            value, formula = float(np.float32(value)), f"float32({formula})"
        zero = self.resolved.calibration.zero
        level = float(zero[self.pixel]) if isinstance(zero, np.ndarray) else float(zero)
        return [
            Step("factor", factor, "K/count", "gamma / (n_hot - n_cold)"),
            Step("factor_sky", through_sky, "K/count", "factor / t_s"),
            *rounding,
            Step("T_A", value, "K", formula),
            Step("zero", level, "counts", source="counts without input"),
            Step("T_sys", t_sys, "K", "(n_ref - zero) * factor_sky"),
        ]

    def _reasons(self, flags: int, count: Any, offs: list[Reading], t_s: float) -> list[tuple[str, str]]:
        place, settings, source = self.place, self.runner.settings, self.loaded.scan.source
        empty = [str(o.subscan.index) for o in offs if not o.valid.any()]
        n_dump = source.subscans[self.subscan].n_dump
        bad = bad_channel_reasons(
            self.resolved.calibration, self.factors.rx.gains.pixel(place.r, place.a)[0], *self.pixel, settings,
            source.rule.saturation,
        )  # fmt: skip
        return reasons(
            flags, count, place.d, source.shape[1] if n_dump is None else n_dump, source, bad=bad,
            off=f"no valid dump in OFF subscan {', '.join(empty)}" if empty else "", t_s=t_s, t_min=settings.t_min,
        )  # fmt: skip


def _check(place: Place, shape: tuple[int, ...]) -> None:
    for name, n in zip("CDRAS", shape, strict=True):
        index = getattr(place, name.lower())
        if not 0 <= index < n:
            what = "ON subscans, counted as in L1" if name == "S" else "counted from 0"
            raise ConfigError("no such sample", array=name, value=index, rule=f"0 to {n - 1} ({what})")


def _read(folder: Path, place: Place) -> tuple[float, int]:
    found = []
    for name in ("spectra", "flags"):
        array = ChunkedArray(folder / name, name, absent_is_fill=False)
        out = np.empty((1,) * 5, array.dtype)
        array.read(tuple(slice(i, i + 1) for i in place.index), out)
        found.append(out.item())
    return float(found[0]), int(found[1])


def _same(a: float, b: float) -> bool:
    return a == b or (np.isnan(a) and bool(np.isnan(b)))
