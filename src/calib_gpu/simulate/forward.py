"""The forward model: counts of every sample, written tile by tile into an L0 store."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.records import ScanId
from calib_gpu.simulate.air import check_layers
from calib_gpu.simulate.config import IMAGE_HZ, SIGNAL_HZ, SimulationConfig
from calib_gpu.simulate.counts import Tiles, check_range
from calib_gpu.simulate.model import Conditions, Model, pressure_torr, reference_channel, source_pattern
from calib_gpu.simulate.plan import START_MJD, GroupPlan, ScanPlan, beam_offsets, pixel_offsets, plan_night
from calib_gpu.simulate.truth import ScanTruth, Truth, truth_path, write_truth
from calib_gpu.store import disk
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.l0_write import COMPRESSOR, CountsWriter, L0Writer
from calib_gpu.workers import usable_cores

AZIMUTH_DEG: Final = 140.0
TUNING: Final = "sim-492"


def simulate(
    out: str | os.PathLike[str], config: SimulationConfig, *, workers: int = 0, counts: Compressor = COMPRESSOR
) -> Truth:
    """Write an L0 store and, beside it, its truth (:func:`calib_gpu.simulate.truth_path`).

    The counts are made and written one pixel and subscan at a time; memory grows with ``workers`` and C D, not with
    the size of the store. The bytes do not depend on ``workers``. An unfinished store never stands at ``out``.

    Parameters
    ----------
    out
        Path of the store, which must not exist (or be an empty folder).
    config
        What to simulate.
    workers
        Threads; 0: one per core.
    counts
        How the counts are compressed.

    Raises
    ------
    OutputError
        The path is taken, or cannot be written.
    ConfigError, BadElevation
        The values lead to an impossible state.
    """
    path, beside = Path(out), truth_path(out)
    for taken in (path, beside):
        if taken.exists() and (not taken.is_dir() or any(taken.iterdir())):
            raise disk.not_empty(taken)
    scans, model = plan_night(config), Model.of(config)
    states = [Conditions.of(config, group) for scan in scans for group in scan.groups]
    check_range(model, [state.gain_factor.max() for state in states])
    if config.sky == "layers":
        check_layers(np.concatenate([s.pwv for s in states]), np.concatenate([s.airmass for s in states]))
    truth = _truth(model, scans)
    parts = [p.with_name(f".{p.name}.{os.getpid()}.part") for p in (path, beside)]
    try:
        jobs = _layout(parts[0], model, scans, counts)
        _run(jobs, workers or usable_cores())
        write_truth(parts[1], truth)
        for part, final in zip(parts, (path, beside), strict=True):
            disk.make_durable(part)
            if not disk.rename(part, final):
                raise disk.not_empty(final)
    finally:
        for part in parts:
            disk.remove_tree(part)
    return truth


def _run(jobs: list[Callable[[], None]], workers: int) -> None:
    with ThreadPoolExecutor(workers, thread_name_prefix="simulate") as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _truth(model: Model, scans: tuple[ScanPlan, ...]) -> Truth:
    found = {}
    for scan in scans:
        for group in (g for g in scan.groups if g.name == "source"):
            state, pattern = Conditions.of(model.config, group), source_pattern(model.config, group)
            found[scan.number] = ScanTruth(
                scan.role, scan.load_scan, group.on_index, state.pwv, state.airmass, state.gain_factor,
                pattern, model.config.continuum * pattern,
            )  # fmt: skip
    rx, (signal, image) = model.receiver, model.air
    return Truth(
        model.config, {s.number: s.role for s in scans}, rx.trec, rx.gain, rx.gain_sig, rx.gain_img, rx.dead, rx.spiked,
        model.signal, model.image, signal.b, signal.c, signal.b2, image.b, image.c, image.b2, model.line_profile, found,
    )  # fmt: skip


def _layout(path: Path, model: Model, scans: tuple[ScanPlan, ...], counts: Compressor) -> list[Callable[[], None]]:
    """Create the store with everything but the counts; one job for every shard of counts."""
    config = model.config
    store = L0Writer(path, {"telescope": "simulated", "instrument": "SIM", "simulated": True}, counts)
    jobs: list[Callable[[], None]] = []
    for scan in scans:
        attrs: dict[str, Any] = {
            "source_name": "SIM-CLOUD", "instmode": config.mode.upper(), "tuning_id": TUNING, "frequency_frame": "topocentric",
            "ref_channel_base": 0, "time_ref": "mid", "exptime_kind": "subscan",
        }  # fmt: skip
        if config.saturation_level is not None:
            attrs["adc_saturation"] = config.saturation_level
        scan_id = ScanId(scan.number)
        store.scan(scan_id, attrs)
        for group in scan.groups:
            writer = store.group(scan_id, group.name, _arrays(model, scan, group), group.shape, config.dtype)
            tiles = Tiles(model, scan.number, group)
            jobs += [partial(_write_shard, writer, tiles, r, a, span) for r, a, span in writer.blocks()]
    return jobs


def _write_shard(writer: CountsWriter, tiles: Tiles, r: int, a: int, subscans: range) -> None:
    shard = writer.open(r, a, subscans)
    for s in subscans:
        shard.append(tiles.counts(r, a, s))
    shard.close()


def _arrays(model: Model, scan: ScanPlan, group: GroupPlan) -> dict[str, Any]:
    """The small arrays of a group, by their names in L0."""
    config, state = model.config, Conditions.of(model.config, group)
    _, d, n_r, n_a, s = group.shape
    n_dump = np.array([sub.n_dump for sub in group.subscans], np.int32)
    azimuth = np.deg2rad(AZIMUTH_DEG + group.times * 15.0 / 3600.0)
    prefix = "OTF-" if config.mode == "otf" and group.name == "source" else ""

    def each(value: float, dtype: type[np.generic] = np.float32) -> NDArray[Any]:
        return np.full(s, value, dtype)

    arrays: dict[str, Any] = {
        "sobsmode": [prefix + sub.kind for sub in group.subscans],
        "mjd": START_MJD + group.times / 86400.0,
        "exptime": (n_dump * config.dump_time).astype(np.float32),
        "elevation": state.elevation, "azimuth": azimuth.astype(np.float32),
        "pamb": each(pressure_torr(config)), "tamb": each(config.t_amb),
        "signal_freq": each(SIGNAL_HZ, np.float64), "image_freq": each(IMAGE_HZ, np.float64),
        "freq_res": each(config.channel_spacing, np.float64), "ref_channel": each(reference_channel(config)),
        "freq_off": each(0.0, np.float64),
        "frontend_backends": [[f"SIM{r}_PX{a:02d}" for a in range(n_a)] for r in range(n_r)],
        "gain_sig": model.receiver.gain_sig, "gain_img": model.receiver.gain_img, "eta_f": np.float64(config.eta_f),
    }  # fmt: skip
    if np.any(n_dump < d):
        arrays["n_dump"] = n_dump
    if group.name == "calibration":
        return arrays | {"thot": each(config.t_hot), "tcold": each(config.t_cold)}
    lon, lat = beam_offsets(config, group)
    pixel_lon, pixel_lat = pixel_offsets(n_r, n_a)
    arrays |= {
        "lloadsn": each(scan.load_scan, np.int32), "pixel_offset_lon": pixel_lon, "pixel_offset_lat": pixel_lat,
        "otf_lon": lon if config.mode == "otf" else lon[0], "otf_lat": lat if config.mode == "otf" else lat[0],
    }  # fmt: skip
    if config.t_spill is not None:
        arrays["t_spill"] = each(config.t_spill)
    return arrays
