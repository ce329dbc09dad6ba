"""A whole run on a backend beside one on NumPy: the files of L1 must be the same, byte for byte."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from calib_gpu.backend.base import Backend
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.errors import NoReference
from calib_gpu.observe.logs import silenced
from calib_gpu.pipeline import calibrate
from calib_gpu.selftest.checks import Check
from calib_gpu.settings import Settings
from calib_gpu.simulate import realistic, simulate

CASES: dict[str, dict[str, Any]] = {
    "float64": {}, "float32, interpolated OFFs": {"dtype": "float32", "reference": "interp"},
    "PWV in bins": {"fit_bins": 64, "pwv_clip": True},
    "layers, dry opacity fitted": {"t_atm": "table", "dry_scale": "fit"},
    "rounded, per pixel": {"precision": "auto", "pwv_scope": "per_pixel", "fit_weights": "radiometer"},
}  # fmt: skip


def files_of(store: Path) -> dict[str, str]:
    """sha256 of every file below a store."""
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*")) if path.is_file()
    }  # fmt: skip


def compare_night(backend: Backend, folder: Path, preset: str = "tiny") -> list[Check]:
    """Calibrate a simulated night twice for each of some settings, in ``folder``."""
    simulate(folder / "night.zarr", realistic(preset))
    checks: list[Check] = []
    for name, values in CASES.items():
        settings = Settings(**values, workers=2)
        stores = []
        for k, chosen in enumerate((NumpyBackend(), backend)):
            stores.append(folder / f"{len(checks)}-{k}.zarr")
            with silenced():  # the night has a scan without an OFF on purpose
                report = calibrate(folder / "night.zarr", stores[-1], settings, backend=chosen)
        expected, found = map(files_of, stores)
        differing = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        lost = [line.message for line in report.scans if line.error not in ("", NoReference.__name__)]
        detail = f"{len(expected)} files, {report.count('ok')} scans"
        if differing or lost:
            detail = "; ".join([*lost, f"{len(differing)} of {len(expected)} files differ: {', '.join(differing[:4])}"])
        checks.append(Check(f"a night, {name}", "differs" if differing or lost else "ok", detail))
    return checks
