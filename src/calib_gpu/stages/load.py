"""Stage 1, load: metadata of a scan, its averaged loads and OFFs. ON counts stay on disk."""

from __future__ import annotations

import copy
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.base import Backend
from calib_gpu.errors import MissingValue, ReadFailed, ScanFailure
from calib_gpu.modes import Mode, detect_mode
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.physics.frequency import frequency_axes, to_topocentric
from calib_gpu.physics.loads import LoadPowers
from calib_gpu.records import (
    Bools,
    CountGroup,
    DumpStats,
    Floats,
    LoadSet,
    OffSpectra,
    Scan,
    ScanId,
    Subscan,
)
from calib_gpu.schema import SUBSCAN_CLASSES, ScanFlag
from calib_gpu.settings import Settings
from calib_gpu.stages.frame import frequency_frame, told_attributes
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.l0_group import subscan_class
from calib_gpu.store.pixel_arrays import PixelArrays, release
from calib_gpu.store.scratch import ScratchFile
from calib_gpu.store.shards import pixel_block
from calib_gpu.store.tile_order import cuts_chunks, in_tile_order
from calib_gpu.workers import CHANNEL_BYTES, Blocks, Workers, read_tile

CACHED_SETS: Final = 3
CHUNKS_BYTES: Final = 256 * 1024 * 1024
"""Bound on the large chunks, compressed and decoded, that are in memory at a time; one is taken in any case."""
MAX_HOT_COLD_SEPARATION_US: Final = 120_000_000


def open_scan(store: L0Store, scan: ScanId, settings: Settings) -> tuple[Scan, Mode]:
    """Metadata of a science scan, its frequency axes and its observing mode."""
    source = with_saturation(store.group(scan, "source"), settings)
    classes = [subscan_class(str(v)) for v in source.arrays["sobsmode"].ravel()]
    mode = detect_mode(classes, settings.mode)
    tuning, warnings, flags = source.tuning, list(source.warnings), 0
    signal, image = frequency_axes(tuning.signal_0, tuning.image_0, tuning.spacing, tuning.ref_channel, source.shape[0])
    told = told_attributes(source.attrs)
    frame = frequency_frame(source, told, settings)
    topo_signal, topo_image = signal, image
    if frame.velocity is not None:
        topo_signal, topo_image = (to_topocentric(axis, frame.velocity) for axis in (signal, image))
    elif frame.name is None:
        warnings.append("frequency_frame is not given: frequencies are taken as topocentric")
    unknown = sorted({name for name in classes if name not in SUBSCAN_CLASSES})
    if unknown:
        flags |= ScanFlag.UNKNOWN_SOBSMODE_IGNORED
        warnings.append(f"subscans of unknown class ignored: {', '.join(unknown[:5])}")
    return Scan(scan, source, signal, image, topo_signal, topo_image, frame, told, tuple(warnings), int(flags)), mode


def with_saturation(group: CountGroup, settings: Settings) -> CountGroup:
    """The group with the saturation level of the settings, where those outrank the store or the store has none."""
    if settings.adc_saturation is None or not (
        settings.outranks_store("adc_saturation") or group.rule.saturation is None
    ):
        return group
    return replace(group, rule=SampleRule(group.rule.fill, settings.adc_saturation))


@dataclass
class DumpFlags:
    """Which dumps of a subscan hold any valid or present sample, and how many samples of each are missing; ``[D]``."""

    valid: Bools
    present: Bools
    missing: NDArray[np.int64]

    @classmethod
    def zeros(cls, n_dump: int) -> DumpFlags:
        """Nothing seen yet."""
        return cls(np.zeros(n_dump, bool), np.zeros(n_dump, bool), np.zeros(n_dump, np.int64))

    def add(self, part: DumpStats) -> None:
        """Add the pixels of another tile."""
        self.valid |= part.dump_valid
        self.present |= part.dump_present
        self.missing += part.dump_missing

    def has_hole(self, n_dump: int | None) -> bool:
        """A missing sample in a dump that is not padding: below ``n_dump``, or where that is unknown in one with data."""
        real = self.present if n_dump is None else slice(0, n_dump)
        return bool(self.missing[real].any())


@dataclass(frozen=True)
class Reader:
    """Reads subscans of a group tile by tile with all workers.

    ``budget`` bounds the bytes of a tile, ``arrays`` makes what outlives it.
    """

    backend: Backend
    workers: Workers
    budget: int
    arrays: PixelArrays

    def laid_out(self, group: CountGroup) -> tuple[CountGroup, int]:
        """The group, its counts in tile order where tiles would decode chunks more than once; bytes read for that."""
        c, d, *pixels, _ = group.shape
        in_shards = math.prod(pixel_block((pixels[0], pixels[1]), c * d * 8)) < math.prod(pixels)
        on_tile = c * (d * (group.counts.dtype.itemsize + 10) + CHANNEL_BYTES)  # spectra and flags take 10 bytes
        if not cuts_chunks(group, 1 if in_shards else self.budget // on_tile):
            return group, 0
        chunk_bytes = math.prod(group.counts.read_chunk) * group.counts.dtype.itemsize
        parts = min(self.workers.count, max(1, CHUNKS_BYTES // (2 * chunk_bytes)))
        counts, n_read = in_tile_order(group.counts, ScratchFile(self.arrays.folder), parts, self.workers.map)
        return replace(group, counts=counts), n_read

    def _stats(self, group: CountGroup, sub: Subscan, r: slice, a: slice, **want: bool) -> tuple[DumpStats, int]:
        counts, n = read_tile(self.workers, group, sub.index, r, a)
        n_dump = group.shape[1] if sub.n_dump is None else sub.n_dump
        return self.backend.dump_mean(counts, group.rule, n_dump, **want), n

    def _cover(self, group: CountGroup) -> list[tuple[slice, slice]]:
        blocks = Blocks.plan(group, group.counts.dtype.itemsize, self.budget)
        return list(blocks.cover(slice(0, group.shape[2]), slice(0, group.shape[3])))

    def each(
        self, group: CountGroup, subscans: tuple[Subscan, ...], mean: Floats, first: Floats | None
    ) -> tuple[list[DumpFlags], int]:
        """Mean (and first valid dump) of each subscan into ``mean``, ``first`` [C,R,A,O]; flags, and bytes read."""
        flags = [DumpFlags.zeros(group.shape[1]) for _ in subscans]
        lock = threading.Lock()

        def task(job: tuple[int, slice, slice]) -> int:
            k, r, a = job
            part, n = self._stats(group, subscans[k], r, a, want_first=first is not None)
            mean[:, r, a, k] = part.mean()
            if first is not None:
                first[:, r, a, k] = part.first
            release(mean[:, r, a, k], None if first is None else first[:, r, a, k])
            with lock:
                flags[k].add(part)
            return n

        jobs = [(k, r, a) for k in range(len(subscans)) for r, a in self._cover(group)]
        return flags, sum(self.workers.map(task, jobs, _size(group, subscans)))

    def together(
        self, group: CountGroup, subscans: tuple[Subscan, ...], band: Floats | None = None
    ) -> tuple[Floats, list[DumpFlags], int]:
        """One mean [C,R,A] of all subscans, weighted by valid samples; ``band`` [S,D,R,A] takes the band means."""
        c, d, n_r, n_a, _ = group.shape
        mean = self.arrays.zeros((c, n_r, n_a))
        flags = [DumpFlags.zeros(d) for _ in subscans]
        lock = threading.Lock()

        def task(job: tuple[slice, slice]) -> int:
            r, a = job
            total, valid, read = mean[:, r, a], np.zeros(mean[:, r, a].shape, np.int64), 0
            for k, sub in enumerate(subscans):  # one after the other: the order of the sums is fixed
                part, n = self._stats(group, sub, r, a, want_band=band is not None)
                total += part.total
                valid += part.valid
                read += n
                if band is not None:
                    band[k, :, r, a] = part.band
                with lock:
                    flags[k].add(part)
            with np.errstate(invalid="ignore", divide="ignore"):
                np.divide(total, valid, out=total)
            release(total)
            return read

        return mean, flags, sum(self.workers.map(task, self._cover(group), _size(group, subscans)))


def _size(group: CountGroup, subscans: tuple[Subscan, ...]) -> int:
    """Bytes of the counts of some subscans."""
    return len(subscans) * math.prod(group.shape[:4]) * group.counts.dtype.itemsize


def dump_time(group: CountGroup, sub: Subscan, present: int) -> float:
    """Integration time of one dump [s]: exptime, divided by the number of dumps if it is that of the subscan."""
    if group.per_dump_exptime:
        return sub.exptime
    n = present if sub.n_dump is None else sub.n_dump
    return sub.exptime / n if n else float("nan")


def read_offs(scan: Scan, mode: Mode, settings: Settings, reader: Reader) -> tuple[OffSpectra, int, list[str]]:
    """Mean and reference spectrum of every OFF with a valid dump; bytes read; warnings."""
    source, warnings = scan.source, []
    off = source.of_kind("OFF")
    use_mean = mode.off_is_mean or settings.tp_ref == "mean"
    c, _, n_r, n_a, _ = source.shape
    mean = reader.arrays.zeros((c, n_r, n_a, len(off)))
    first = None if use_mean or source.shape[1] == 1 else reader.arrays.zeros((c, n_r, n_a, len(off)))
    flags, read = reader.each(source, off, mean, first)
    kept = [k for k, f in enumerate(flags) if f.valid.any()]
    if len(kept) < len(off):
        mean = _kept(mean, kept, reader.arrays)
        first = None if first is None else _kept(first, kept, reader.arrays)
    one_dump = [dump_time(source, off[k], int(np.count_nonzero(flags[k].present))) for k in kept]
    n_valid = tuple(int(np.count_nonzero(flags[k].valid)) for k in kept)
    if not use_mean and any(n > 1 for n in n_valid):
        warnings.append(
            "total power with several dumps in an OFF: the first valid dump is the reference (tp_ref=mean uses all)"
        )
    whole = tuple(t * n for t, n in zip(one_dump, n_valid, strict=True))
    reference = mean if first is None else first
    index = tuple(off[k].index for k in kept)
    return OffSpectra(index, mean, reference, whole if use_mean else tuple(one_dump), whole), read, warnings


def _kept(spectra: Floats, kept: list[int], arrays: PixelArrays) -> Floats:
    """Some of the OFFs of ``[C, R, A, O]``."""
    out = arrays.zeros((*spectra.shape[:3], len(kept)))
    for r, a in np.ndindex(spectra.shape[1:3]):
        out[:, r, a] = spectra[:, r, a, kept]
        release(out[:, r, a], spectra[:, r, a])
    return out


def read_load_set(scan: ScanId, group: CountGroup, reader: Reader) -> tuple[LoadSet | None, int]:
    """Averaged loads of a ``calibration/`` group, and the bytes read; None if it has no valid HOT and COLD near each other."""
    group, n_laid_out = reader.laid_out(group)
    hot_subscans, cold_subscans, sky_subscans = (group.of_kind(kind) for kind in ("HOT", "COLD", "SKY"))
    _, d, n_r, n_a, _ = group.shape
    band = np.empty((len(hot_subscans), d, n_r, n_a))
    hot, hot_flags, n_hot = reader.together(group, hot_subscans, band)
    cold, cold_flags, n_cold = reader.together(group, cold_subscans)
    seen_hot, seen_cold = (
        [s for s, f in zip(subscans, flags, strict=True) if f.valid.any()]
        for subscans, flags in ((hot_subscans, hot_flags), (cold_subscans, cold_flags))
    )
    if not near_each_other(seen_hot, seen_cold):
        return None, n_laid_out + n_hot + n_cold
    zero, n_zero = read_zero(group, reader)
    sky, _, n_sky = reader.together(group, sky_subscans) if sky_subscans else (None, [], 0)
    group.counts.close()
    loads = LoadSet(
        scan, group.absolute_us(hot_subscans + cold_subscans), hot, cold, zero, sky,
        _load_temperature(group, "thot", hot_subscans), _load_temperature(group, "tcold", cold_subscans),
        _override(group, hot_subscans, cold_subscans),
        np.concatenate([band[k, f.valid] for k, f in enumerate(hot_flags)]),
        next(
            dump_time(group, s, int(np.count_nonzero(f.present)))
            for s, f in zip(hot_subscans, hot_flags, strict=True) if f.valid.any()
        ),
        any(f.has_hole(s.n_dump) for s, f in zip((*hot_subscans, *cold_subscans), (*hot_flags, *cold_flags), strict=True)),
    )  # fmt: skip
    return loads, n_laid_out + n_hot + n_cold + n_zero + n_sky


def separation_us(hot: Sequence[Subscan], cold: Sequence[Subscan]) -> int | None:
    """Time between the nearest HOT and COLD, microseconds; None without a pair."""
    return min((abs(h.time_us - c.time_us) for h in hot for c in cold), default=None)


def near_each_other(hot: Sequence[Subscan], cold: Sequence[Subscan]) -> bool:
    """True if there is a HOT and a COLD at most 120 s apart."""
    gap = separation_us(hot, cold)
    return gap is not None and gap <= MAX_HOT_COLD_SEPARATION_US


def read_zero(group: CountGroup, reader: Reader) -> tuple[Floats | None, int]:
    """Mean of the ZERO subscans [C,R,A] counts, None without any; zero levels may be <= 0, only missing samples are left out."""
    subscans = group.of_kind("ZERO")
    if not subscans:
        return None, 0
    lenient = replace(group, rule=SampleRule(group.rule.fill, None, positive=False))
    mean, flags, read = reader.together(lenient, subscans)
    return (mean if any(f.valid.any() for f in flags) else None), read


def _load_temperature(group: CountGroup, name: str, subscans: tuple[Subscan, ...]) -> float:
    values = np.broadcast_to(group.arrays[name], (group.shape[4],))[[s.index for s in subscans]]
    good = values[np.isfinite(values)]
    if not good.size or not good.mean() > 0.0:
        raise MissingValue(
            "no load temperature", array=f"calibration/{name}", value=values.tolist()[:4], rule="a temperature > 0 K"
        )
    return float(good.mean())


def _override(group: CountGroup, hot: tuple[Subscan, ...], cold: tuple[Subscan, ...]) -> LoadPowers | None:
    if "load_temp_sig" not in group.arrays or "load_temp_img" not in group.arrays:
        return None

    def mean(name: str, subscans: tuple[Subscan, ...]) -> Floats:
        return np.asarray(group.arrays[name][:, [s.index for s in subscans]].mean(axis=1))

    return LoadPowers(
        mean("load_temp_sig", hot), mean("load_temp_img", hot), mean("load_temp_sig", cold), mean("load_temp_img", cold)
    )


class LoadSetCache:
    """The load sets read last, so that scans that share loads read them once; what it holds never changes a number."""

    def __init__(self, read: Callable[[ScanId], tuple[LoadSet | None, int]]) -> None:
        self._read, self._held = read, OrderedDict[ScanId, LoadSet | None]()
        self.damaged: dict[ScanId, ScanFailure] = {}
        self.bytes_read = 0

    def get(self, scan: ScanId) -> LoadSet | None:
        """The load set of a scan's ``calibration/``; None if it is not complete; raises if it is damaged."""
        if scan in self.damaged:
            raise copy.copy(self.damaged[scan])
        if scan not in self._held:
            try:
                self._held[scan], n = self._read(scan)
            except ScanFailure as error:
                error.at(str(scan))
                if not isinstance(error, ReadFailed):  # that is no damage: the next scan tries again
                    self.damaged[scan] = copy.copy(error)  # without the frames that the error holds
                raise
            self.bytes_read += n
            while len(self._held) > CACHED_SETS:
                self._held.popitem(last=False)
        self._held.move_to_end(scan)
        return self._held[scan]
