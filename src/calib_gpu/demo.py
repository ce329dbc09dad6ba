"""The demonstration: simulate a night, calibrate it, and hold the result against the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import OutputError
from calib_gpu.pipeline import Progress, RunReport, calibrate
from calib_gpu.records import ScanId
from calib_gpu.settings import Settings
from calib_gpu.simulate import Truth, expected_spectra, realistic, simulate, truth_path
from calib_gpu.store import disk
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.metadata import group_attrs
from calib_gpu.store.publish import run_folder

STORES = ("night.zarr", "calibrated.zarr")


@dataclass(frozen=True)
class Comparison:
    """Truth beside result for one scan.

    ``pwv`` and ``trec`` are (truth, result) in mm and K; ``scale`` is the factor between measured and true T_A* of the
    line's channels (least squares after a constant baseline is taken off, 1 is perfect) and ``scale_error`` its
    standard error; ``noise`` the measured noise over that of the radiometer equation.
    """

    scan: str
    pwv: tuple[float, float]
    pwv_error: float
    trec: tuple[float, float]
    peak: float
    scale: float
    scale_error: float
    noise: float


@dataclass(frozen=True)
class Demonstration:
    """What the demo made: paths, the run's report and the comparisons."""

    l0: Path
    l1: Path
    truth: Path
    report: RunReport
    comparisons: list[Comparison]


def demonstrate(
    folder: Path, preset: str, seed: int, settings: Settings, progress: Progress | None = None
) -> Demonstration:
    """Simulate a night into ``folder``, calibrate it and compare; what an earlier demo left there is replaced.

    Raises
    ------
    OutputError
        ``folder`` holds a store that is not simulated.
    """
    l0, l1 = (folder / name for name in STORES)
    if l0.exists() and not is_simulated(l0):
        raise OutputError("holds a store that is not a simulation", array=str(l0), fix="give another folder with --out")
    for path in (l0, l1, run_folder(l1), truth_path(l0)):
        disk.remove_tree(path)
    disk.make_dirs(folder)
    truth = simulate(l0, realistic(preset, seed=seed), workers=settings.workers)
    report = calibrate(l0, l1, settings, progress=progress)
    done = [number for number, role in truth.roles.items() if role == "science" and (l1 / ScanId(number).path).is_dir()]
    return Demonstration(l0, l1, truth_path(l0), report, [compare(l1, truth, number) for number in done])


def is_simulated(store: Path) -> bool:
    """True for an L0 store that the simulator wrote."""
    return (store / "zarr.json").is_file() and truth_path(store).is_dir()


def compare(l1: Path, truth: Truth, number: int) -> Comparison:
    """Hold one calibrated scan against the truth."""
    scan = ScanId(number)
    attrs = group_attrs(l1 / scan.path)

    def read(name: str) -> NDArray[Any]:
        return ChunkedArray(l1 / scan.path / name, name, absent_is_fill=False).values()

    spectra, trec, t_sys = read("spectra"), read("trec"), read("t_sys")
    good = ~read("bad_channels")
    of = truth.scans[number]
    dot = norm = noise = 0.0
    bright = truth.line_profile > 0.1 * truth.line_profile.max()
    sigma = np.nanmedian(t_sys) / np.sqrt(truth.config.channel_spacing * truth.config.dump_time)
    for s, r, a in np.ndindex(spectra.shape[4], spectra.shape[2], spectra.shape[3]):
        measured, expected = spectra[:, :, r, a, s], expected_spectra(truth, number, s, r, a)
        if not np.isfinite(measured).any():
            continue
        measured = measured - np.nanmedian((measured - expected)[~bright])
        use = np.isfinite(measured) & bright[:, None]
        dot += float((measured[use] * expected[use]).sum())
        norm += float((expected[use] ** 2).sum())
    noise = sigma / np.sqrt(norm) if norm else float("nan")
    return Comparison(
        str(scan), (float(of.pwv.mean()), attrs["pwv_mm"]), attrs["pwv_err_mm"],
        (float(np.median(truth.trec[good])), float(np.median(trec[good]))), float(truth.line_profile.max()),
        dot / norm if norm else float("nan"), noise, float(np.nanmedian(np.array(attrs["qa"]["rms_ratio"], float))),
    )  # fmt: skip
