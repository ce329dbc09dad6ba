"""One scan through the six stages. :mod:`calib_gpu.pipeline` runs this for every scan of a store."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from calib_gpu._version import __version__
from calib_gpu.backend.base import Backend
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.encoded import CODEC, Encoders, TileEncoder, host_codec
from calib_gpu.errors import OutOfDeviceMemory, OutOfMemory
from calib_gpu.load_choice import LoadChoice, LoadFinder
from calib_gpu.load_index import LoadIndex
from calib_gpu.modes import Mode
from calib_gpu.packed import PackedReader, PackedReaders
from calib_gpu.physics.robust import median
from calib_gpu.qa import metrics
from calib_gpu.qa.sample import DumpSample
from calib_gpu.records import Atmosphere, Loads, OffSpectra, Pairing, Receiver, Scan, ScanId
from calib_gpu.scan_report import ScanReport
from calib_gpu.schema import Flag
from calib_gpu.settings import Settings
from calib_gpu.stages.atmosphere import fit_atmosphere
from calib_gpu.stages.calibrate import ScanTiles, TileTotals
from calib_gpu.stages.load import LoadSetCache, Reader, open_scan, read_load_set, read_offs
from calib_gpu.stages.prepare import Factors, pair_subscans, prepare
from calib_gpu.stages.resolve import ResolvedLoads, receiver, resolve
from calib_gpu.stages.write import exposures, scan_attributes, write_loads, write_scan_arrays
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.group_files import tree_digest
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.l1 import ScanWriter
from calib_gpu.store.pixel_arrays import PixelArrays
from calib_gpu.stream import DeviceTiles, HostTiles, Tiles
from calib_gpu.tile_plan import MEMORY_PER_ARRAY, TilePlan, device_plan, tile_bytes
from calib_gpu.workers import Workers

log = logging.getLogger("calib_gpu")

LOAD_TILE_BYTES = 8 * 1024 * 1024
Result = TypeVar("Result")
FILL_BIT = int(Flag.FILL_VALUE).bit_length() - 1


@dataclass
class LoadedScan:
    """What stage load hands on: all small data of a scan; its ON counts stay on disk."""

    report: ScanReport
    scan: Scan
    mode: Mode
    loads: Loads
    choice: LoadChoice
    offs: OffSpectra
    pairing: Pairing
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass
class CalibratedScan:
    """What stage calibrate hands on: all tiles are in the staging folder, the rest of the scan is still to be written."""

    loaded: LoadedScan
    rx: Receiver
    resolved: ResolvedLoads
    atmosphere: Atmosphere
    factors: Factors
    qa: dict[str, Any]
    writer: ScanWriter
    sample: DumpSample
    totals: TileTotals


class ScanRunner:
    """Runs single scans: everything that lasts longer than one scan is held here."""

    def __init__(
        self,
        store: L0Store,
        index: LoadIndex,
        settings: Settings,
        backend: Backend,
        workers: Workers,
        scratch: Path | None,
    ) -> None:
        self.store, self.index, self.settings, self.backend, self.workers = store, index, settings, backend, workers
        own = settings.atmosphere in ("auto", "none") or settings.atmosphere.startswith("builtin:")
        self._table_digest = "" if own else tree_digest(Path(settings.atmosphere))
        self.arrays = PixelArrays(scratch, settings.memory // MEMORY_PER_ARRAY)
        load_bytes = min(LOAD_TILE_BYTES, settings.memory // 4 // workers.count)
        self.reader = Reader(backend, workers, load_bytes, self.arrays)
        self._host = NumpyBackend()
        self._host_reader = Reader(self._host, workers, load_bytes, self.arrays)
        self.cache = LoadSetCache(
            lambda scan: self._or_on_host(
                None, lambda _, reader: read_load_set(scan, index.by_scan[scan].group, reader)
            )
        )
        self._finder = LoadFinder(index, settings, lambda scan: self.cache.get(scan) is not None)
        self._metadata_finder = LoadFinder(index, settings, lambda scan: True)
        self._host_tiles = HostTiles(backend, workers)
        self._device_tiles = None if backend.device is None else DeviceTiles(backend.device, workers)
        self._packed = PackedReaders(settings.gpu_reader, backend.device)
        self._encoders = Encoders(settings.codec_used, backend.device)

    def _inputs_of(self, scan: ScanId, expected: tuple[ScanId, ...], used: tuple[ScanId, ...]) -> dict[str, Any]:
        """Digests of what a scan is made of, and the load sets that it would use first, as metadata alone tell."""
        names = [f"{scan}/source", *(f"{s}/calibration" for s in dict.fromkeys(used))]
        digests = {name: self._digest(name) for name in names}
        if self._table_digest:
            digests["atmosphere"] = self._table_digest
        return {"expected_loads": [str(s) for s in expected], "sha256": digests}

    def difference(self, done: dict[str, Any]) -> str:
        """Empty if a published scan was made from the same input with the same settings, else what differs."""
        return self.other_settings(done) or self._other_input(done)

    def other_settings(self, done: dict[str, Any]) -> str:
        """Empty if a published scan was made by this version with the same settings, else what differs."""
        if done.get("engine_version") != __version__:
            return f"engine version {done.get('engine_version')}"
        if done.get("settings_digest") != self.settings.digest():
            return f"other settings: {', '.join(self._changed(done)) or 'their origin'}"
        return ""

    def _other_input(self, done: dict[str, Any]) -> str:
        known = done.get("inputs", {}).get("sha256", {})
        missing = [name for name in known if name != "atmosphere" and not (self.store.path / name).is_dir()]
        now = {name: self._digest(name) for name in known if name not in missing}
        changed = missing + [name for name, digest in now.items() if known[name] != digest]
        return f"other input ({', '.join(changed)})" if changed else ""

    def _changed(self, done: dict[str, Any]) -> list[str]:
        """Settings that differ from those of a published scan."""
        before, now = json.loads(done.get("settings", "{}")), self.settings.numeric()
        return [f"{name} {before.get(name)} -> {value}" for name, value in now.items() if before.get(name) != value]

    def better_loads(self, scan: ScanId, done: dict[str, Any]) -> str:
        """Which load sets a published scan would use now, if they came into the store after it was calibrated."""
        metadata, _ = open_scan(self.store, scan, self.settings)
        expected = [str(s) for s in self._metadata_finder.find(scan, metadata.source).sets]
        return " + ".join(expected) if expected != done.get("inputs", {}).get("expected_loads") else ""

    def _digest(self, name: str) -> str:
        """Digest of an input by its name in the attributes: the table, or a group of the store."""
        if name == "atmosphere":
            return self._table_digest
        path, _, group = name.rpartition("/")
        return self.store.input_digest(path, group)

    def load(self, scan_id: ScanId, report: ScanReport) -> LoadedScan:
        """Stage load; may run while another scan is calibrated."""
        with timed(report, "load"):
            scan, mode = open_scan(self.store, scan_id, self.settings)
            source, n_laid_out = self.reader.laid_out(scan.source)
            scan = replace(scan, source=source)
            before = self.cache.bytes_read
            choice = self._finder.find(scan_id, scan.source)
            sets = tuple(s for s in map(self.cache.get, choice.scans) if s is not None)
            previous = None if choice.previous is None else self.cache.get(choice.previous)
            offs, n_read, warnings = self._or_on_host(
                report, lambda _, reader: read_offs(scan, mode, self.settings, reader)
            )
            pairing = pair_subscans(scan, offs, self.settings)
            report.bytes_read += n_laid_out + n_read + self.cache.bytes_read - before
            told = [w for s in choice.scans for w in self.index.by_scan[s].group.warnings]
            report.warnings += tuple(dict.fromkeys([*scan.warnings, *told, *choice.warnings, *warnings]))
            expected = self._metadata_finder.find(scan_id, scan.source).sets
            inputs = self._inputs_of(scan_id, expected, choice.sets)
        return LoadedScan(report, scan, mode, Loads(sets, choice.age_s, previous), choice, offs, pairing, inputs)

    def calibrate(
        self, loaded: LoadedScan, folder: Path, on_tile: Callable[[int], None], *, others: int
    ) -> CalibratedScan:
        """Stages resolve to calibrate; what belongs to all tiles of a scan is written by :meth:`write`.

        ``others`` is the number of scans in memory beside this one: one is loaded, one is written meanwhile.
        """
        settings, report, scan = self.settings, loaded.report, loaded.scan
        with timed(report, "resolve"):
            rx = receiver(scan.source, settings)
            resolved, n_read = self._or_on_host(
                report, lambda backend, reader: resolve(scan, loaded.loads, rx, settings, backend, reader)
            )
            report.bytes_read += n_read
        with timed(report, "atmosphere"):
            atmosphere = self._or_on_host(
                report, lambda backend, _: fit_atmosphere(scan, loaded.offs, resolved, rx, settings, backend)
            )
        with timed(report, "prepare"):
            factors = prepare(scan, loaded.offs, loaded.pairing, resolved, rx, atmosphere, settings)
            qa = metrics.load_metrics(resolved, rx, factors)
            qa["off_drift"] = metrics.off_drift(loaded.offs, factors.bad)
        c, d, n_r, n_a, _ = scan.source.shape
        shape = (c, d, n_r, n_a, len(loaded.pairing.on))
        with timed(report, "write"):
            compressor = Compressor(host_codec(settings.codec_used), settings.level)
            writer = ScanWriter(folder, shape, settings.dtype, compressor, settings.level)
            writer.write_streamed_documents(corrected=atmosphere.status != "none", bits=settings.precision_bits)
            write_loads(writer, scan, resolved, rx, settings)
        sample = DumpSample(shape, self.arrays)
        with timed(report, "calibrate"):
            tiles, plan = self._tiles(loaded, others, compressor)
            totals = ScanTiles(factors, writer, plan, tiles, self.workers, sample, on_tile).run()
            if isinstance(tiles, DeviceTiles):
                report.notes += tuple(note for part in (tiles.packed, tiles.encoder) if part for note in part.notes())
        scan.source.counts.close()
        _share_write_time(report, totals.seconds)
        return CalibratedScan(loaded, rx, resolved, atmosphere, factors, qa, writer, sample, totals)

    def write(self, done: CalibratedScan) -> None:
        """The rest of stage write: the finished scan lies in its folder; may run while another scan is calibrated."""
        loaded, rx, resolved, atmosphere, factors = done.loaded, done.rx, done.resolved, done.atmosphere, done.factors
        settings, report, scan, qa = self.settings, loaded.report, loaded.scan, done.qa
        writer, totals = done.writer, done.totals
        c, d, n_r, n_a, _ = scan.source.shape
        with timed(report, "write"):
            on, ref = exposures(factors, loaded.offs, totals.present)
            write_scan_arrays(writer, factors, atmosphere, settings, on, ref)
            if settings.precision_bits is not None:
                writer.write("quantum", totals.quantum, ("R", "A", "S"))
            bandwidth = abs(scan.source.tuning.spacing) * settings.enbw
            qa |= metrics.sky_metrics(atmosphere, factors)
            qa |= metrics.spectrum_metrics(done.sample, metrics.Exposure(on, ref, bandwidth), factors, rx, atmosphere)
            n_pixel = c * d * len(loaded.pairing.on)
            qa["nan_fraction"] = totals.invalid / n_pixel
            qa["fill_fraction"] = totals.flag_counts[..., FILL_BIT] / n_pixel
            flags = (
                scan.scan_flags
                | loaded.choice.scan_flags
                | resolved.scan_flags
                | atmosphere.scan_flags
                | factors.scan_flags
            )
            report.warnings += (*rx.warnings, *atmosphere.warnings)
            attributes = scan_attributes(
                scan, loaded.mode, loaded.loads, rx, atmosphere, settings, resolved.zero_used,
                metrics.as_json(qa, settings), flags, loaded.inputs, totals,
            )  # fmt: skip
            attributes["warnings"] = list(report.warnings)
            self.store.check_unchanged(loaded.inputs["sha256"])
            report.digest = writer.finish(attributes)
            self.store.forget(f"{scan.id.path}/source")
        report.bytes_read += totals.bytes_read
        report.bytes_written = writer.bytes_written
        report.samples = n_pixel * n_r * n_a
        report.flag_counts = totals.by_flag()
        report.pwv_mm, report.pwv_status = atmosphere.pwv, atmosphere.status
        report.qa_warnings = tuple(attributes["qa"]["warnings"])
        report.flagged = float(totals.invalid.sum()) / report.samples
        t_sys = qa["tsys_median"][np.isfinite(qa["tsys_median"])]
        report.t_sys_k = median(t_sys) if t_sys.size else None

    def close(self) -> None:
        """Give back what is held for tiles."""
        if self._device_tiles is not None:
            self._device_tiles.free()

    def _or_on_host(self, report: ScanReport | None, work: Callable[[Backend, Reader], Result]) -> Result:
        """Work before the tiles; where it does not fit the GPU and the host may be used, all of it again there."""
        try:
            return work(self.backend, self.reader)
        except OutOfDeviceMemory as error:
            if self.settings.backend != "auto":
                raise
            self._note(report, f"calculated on the host, for it does not fit the GPU ({error})")
            return work(self._host, self._host_reader)

    @staticmethod
    def _note(report: ScanReport | None, text: str) -> None:
        if report is None:
            log.warning("loads: %s", text)
            return
        report.notes += (f"{report.stage}: {text}",)
        log.warning("%s: %s", report.scan, report.notes[-1])

    def _tiles(self, loaded: LoadedScan, others: int, compressor: Compressor) -> tuple[Tiles, TilePlan]:
        """Where the tiles of a scan are calculated, and how it is cut."""
        source, report, dtype = loaded.scan.source, loaded.report, self.settings.dtype
        on_host = TilePlan.of(source, dtype, self._tile_bytes(loaded, others))
        packed, notes = self._packed.of(source.counts, precise=self.settings.precision_bits is not None)
        encoder, more = self._encoders.of(on_host.largest, compressor)
        report.notes += (*notes, *more)
        if self._device_tiles is None:
            return self._host_tiles, on_host
        plan = self._on_device(loaded, others, self._device_tiles, packed, encoder)
        if plan is None and encoder is not None:
            self._note(report, f"codec={CODEC}: encoded on the host, for no tile fits the GPU with its frames")
            plan = self._on_device(loaded, others, self._device_tiles, packed, None)
        if plan is not None:
            return self._device_tiles, plan
        if self.settings.backend != "auto":
            raise OutOfMemory(
                "no tile fits the GPU", array="device memory", value=self.settings.device_memory or None,
                fix="give the process a larger GPU, or use --backend numpy",
            )  # fmt: skip
        self._note(report, "no tile fits the GPU: this scan is calibrated on the host")
        return HostTiles(self._host, self.workers), on_host

    def _on_device(
        self, loaded: LoadedScan, others: int, tiles: DeviceTiles, packed: PackedReader | None,
        encoder: TileEncoder | None,
    ) -> TilePlan | None:  # fmt: skip
        """Allocate slots on the device, for smaller tiles where its memory is short; None if none fits."""
        parts = [part for part in (packed, encoder) if part is not None]
        plan: TilePlan | None = device_plan(
            loaded.scan.source, self.settings, self._off_bytes(loaded), 1 + others, self.workers.count,
            lambda largest: sum(part.device_bytes(largest) for part in parts), encoded=encoder is not None,
        )  # fmt: skip
        while plan is not None:
            try:
                tiles.allocate(plan.largest, plan.slots, packed, encoder)
            except OutOfDeviceMemory as error:
                self._note(loaded.report, f"tiles of {plan.slot_bytes} bytes do not fit: halved ({error})")
                plan = plan.smaller()
            else:
                return plan
        return None

    def _tile_bytes(self, loaded: LoadedScan, others: int) -> int:
        """Bytes for the buffers of a tile: what the arrays of this scan and the others leave of the memory, per worker."""
        n = self.workers.count
        return tile_bytes(self.settings.memory, loaded.scan.source.shape, self._off_bytes(loaded), n, 1 + others, n)

    @staticmethod
    def _off_bytes(loaded: LoadedScan) -> list[int]:
        mean, reference = loaded.offs.mean, loaded.offs.reference
        return [mean.nbytes] if reference is mean else [mean.nbytes, reference.nbytes]


@contextmanager
def timed(report: ScanReport, name: str) -> Iterator[None]:
    """Note the stage that a scan is in, and add to its time."""
    report.stage = name
    begin = time.perf_counter()
    try:
        yield
    finally:
        report.spend("atm" if name == "atmosphere" else name, 1e3 * (time.perf_counter() - begin))


def _share_write_time(report: ScanReport, seconds: dict[str, float]) -> None:
    """Tiles are read, calibrated and written by the same threads: split the wall time by the time spent in each."""
    total = sum(seconds.values())
    written = report.timings_ms["calibrate"] * (seconds["write"] / total if total else 0.0)
    report.spend("calibrate", -written)
    report.spend("write", written)
