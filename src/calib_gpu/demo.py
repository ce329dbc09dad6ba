"""The demonstration: simulate a night, calibrate it, and hold the result against the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from calib_gpu.errors import ConfigError, OutputError
from calib_gpu.pipeline import Progress, RunReport, calibrate
from calib_gpu.qa.report import write_report
from calib_gpu.records import ScanId
from calib_gpu.settings import Settings
from calib_gpu.simulate import Truth, expected_spectra, realistic, simulate, truth_path
from calib_gpu.store import disk
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.metadata import group_attrs
from calib_gpu.store.publish import run_folder

STORES: Final = ("night.zarr", "calibrated.zarr")
PAGE: Final = "report.html"
PRESETS: Final = ("tiny", "S", "M")
MARK: Final = ".calib-gpu-demo"
"""File that marks a folder of the demo: only in such a folder anything is replaced."""


@dataclass(frozen=True)
class Comparison:
    """Truth beside result for one scan.

    ``pwv`` and ``trec`` are (truth, result) in mm and K, the PWV over the OFFs, from which it is fitted;
    ``pwv_scatter`` the scatter of the fits to single OFFs. ``scale`` is the factor between measured and true T_A* of
    the line's channels (least squares after a constant baseline is taken off, 1 is perfect) and ``scale_error`` its
    standard error; ``noise`` the measured noise over that of the radiometer equation.
    """

    scan: str
    pwv: tuple[float, float]
    pwv_scatter: float
    trec: tuple[float, float]
    scale: float
    scale_error: float
    noise: float


@dataclass(frozen=True)
class Demonstration:
    """What the demo made: paths (``page``: the QA report), the run's report and the comparisons."""

    l0: Path
    l1: Path
    truth: Path
    page: Path
    report: RunReport
    comparisons: list[Comparison]


def demonstrate(
    folder: Path, preset: str, seed: int, settings: Settings, progress: Progress | None = None
) -> Demonstration:
    """Simulate a night into ``folder``, calibrate it and compare; what an earlier demo left there is replaced.

    Raises
    ------
    ConfigError
        The preset is too large for a demonstration.
    OutputError
        ``folder`` holds something else than an earlier demo.
    """
    if preset not in PRESETS:
        raise ConfigError("no such preset of the demo", array="preset", value=preset, rule=" | ".join(PRESETS))
    if folder.exists() and not (folder / MARK).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            "is not empty and not of an earlier demo", array=str(folder), fix="give another folder with --out"
        )
    l0, l1 = (folder / name for name in STORES)
    for path in (l0, l1, run_folder(l1), truth_path(l0)):
        disk.remove_tree(path)
    disk.make_dirs(folder)
    disk.replace_file(folder / MARK, b"The stores here are made and replaced by `calib-gpu demo`.\n")
    truth = simulate(l0, realistic(preset, seed=seed), workers=settings.workers)
    report = calibrate(l0, l1, settings, progress=progress)
    done = [number for number, role in truth.roles.items() if role == "science" and (l1 / ScanId(number).path).is_dir()]
    page = write_report(l1, folder / PAGE).path
    return Demonstration(l0, l1, truth_path(l0), page, report, [compare(l1, truth, number) for number in done])


def compare(l1: Path, truth: Truth, number: int) -> Comparison:
    """Hold one calibrated scan against the truth; it is read pixel by pixel."""
    scan = ScanId(number)
    attrs = group_attrs(l1 / scan.path)
    names = ("spectra", "t_sys", "trec", "bad_channels")
    arrays = {name: ChunkedArray(l1 / scan.path / name, name, absent_is_fill=False) for name in names}
    trec, good = arrays["trec"].values(), ~arrays["bad_channels"].values()
    of = truth.scans[number]
    dot = norm = 0.0
    t_sys = []
    bright = truth.line_profile > 0.1 * truth.line_profile.max()
    n_c, n_d, n_r, n_a, n_on = arrays["spectra"].shape
    measured, pixel_t_sys = np.empty((n_c, n_d)), np.empty(n_c)
    for s, r, a in np.ndindex(n_on, n_r, n_a):
        pixel = (slice(r, r + 1), slice(a, a + 1), slice(s, s + 1))
        arrays["spectra"].read((slice(0, n_c), slice(0, n_d), *pixel), measured[:, :, None, None, None])
        arrays["t_sys"].read((slice(0, n_c), *pixel), pixel_t_sys[:, None, None, None])
        if not np.isfinite(measured).any():
            continue
        expected = expected_spectra(truth, number, s, r, a)
        t_sys.append(np.nanmedian(pixel_t_sys))
        difference = measured - np.nanmedian((measured - expected)[~bright])
        use = np.isfinite(difference) & bright[:, None]
        dot += float((difference[use] * expected[use]).sum())
        norm += float((expected[use] ** 2).sum())
    sigma = float(np.median(t_sys)) / np.sqrt(truth.config.channel_spacing * truth.config.dump_time)
    pwv_off = float(np.delete(of.pwv, of.on_index).mean())
    return Comparison(
        str(scan), (pwv_off, attrs["pwv_mm"]), attrs["qa"]["pwv_off_scatter"] or 0.0,
        (float(np.median(truth.trec[good])), float(np.median(trec[good]))),
        dot / norm, sigma / np.sqrt(norm), float(np.nanmedian(np.array(attrs["qa"]["rms_ratio"], float))),
    )  # fmt: skip
