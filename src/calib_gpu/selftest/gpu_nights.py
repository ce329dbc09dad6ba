"""A night calibrated on NumPy, and on a GPU with each of the settings by which zstd runs there: files, numbers, times."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from calib_gpu.backend.base import Backend
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.pipeline import RunReport, calibrate
from calib_gpu.selftest.checks import Check
from calib_gpu.selftest.night import files_of
from calib_gpu.settings import Settings
from calib_gpu.simulate import realistic, simulate
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.l1_store import published_scans

ZSTD_CRC = Compressor("zstd_crc32c", 1)
ENCODED: Final[dict[str, Any]] = {"codec": "nvcomp_zstd"}
MANY: Final[dict[str, Any]] = {"slots": 48, "memory": 1 << 30}
RUNS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("host", {}), ("nvcomp", {"gpu_reader": "nvcomp"}), ("kvikio", {"gpu_reader": "kvikio"}),
    ("nvcomp, 48 slots", {"gpu_reader": "nvcomp", **MANY}),
    ("host, encoded by nvcomp", ENCODED), ("nvcomp, encoded by nvcomp", {"gpu_reader": "nvcomp", **ENCODED}),
    ("nvcomp, encoded by nvcomp, 48 slots", {"gpu_reader": "nvcomp", **ENCODED, **MANY}),
)  # fmt: skip
"""Run twice: the first time the libraries are loaded and kernels compiled."""
NIGHT, SMALL_NIGHT = (16384, 40, 1, 7, 14), (512, 16, 1, 2, 4)
"""Half a scan of preset M, and one for a device that is simulated."""


@dataclass(frozen=True)
class _Found:
    """What a run has left: its report and seconds, sha256 of each file and, where asked for, of decoded spectra and flags."""

    report: RunReport
    seconds: float
    files: dict[str, str]
    arrays: dict[str, str]


def check_nights(backend: Backend, folder: Path, shape: tuple[int, int, int, int, int]) -> Iterator[Check | str]:
    """A night whose counts are zstd + crc32c on NumPy and with each of :data:`RUNS`: what is in L1, and the times.

    With an encoder on the GPU the files of the spectra are others, and with them the list of files: all others must be the
    same, and the spectra and flags when they are decoded.
    """
    simulate(folder / "night.zarr", realistic("M", shape=shape), counts=ZSTD_CRC)
    expected: _Found | None = None
    for k, (name, values) in enumerate((("numpy", {}), *2 * RUNS)):
        chosen = NumpyBackend() if name == "numpy" else backend
        encoded = "codec" in values
        found = _run(folder / "night.zarr", folder / f"{k}.zarr", values, chosen, decode=encoded or expected is None)
        expected = expected or found
        yield _compared(f"a night with {name}", found, expected, encoded=encoded)
        stages = {
            stage: round(sum(scan.timings_ms.get(stage, 0.0) for scan in found.report.scans))
            for stage in ("calibrate", "write")
        }
        yield f"a night with {name}: {found.seconds:.2f} s, of which ms {stages}"


def _run(l0: Path, out: Path, values: dict[str, Any], backend: Backend, *, decode: bool) -> _Found:
    begin = time.perf_counter()
    report = calibrate(l0, out, Settings(**values), backend=backend)
    seconds = time.perf_counter() - begin
    found = _Found(report, seconds, files_of(out), arrays_of(out) if decode else {})
    shutil.rmtree(out)
    return found


def arrays_of(store: Path) -> dict[str, str]:
    """sha256 of the decoded spectra and flags of every scan."""
    return {
        f"{scan.path}/{name}": hashlib.sha256(
            ChunkedArray(store / scan.path / name, name, absent_is_fill=False).values().tobytes()
        ).hexdigest()
        for scan in published_scans(store) for name in ("spectra", "flags")
    }  # fmt: skip


def depends_on_the_encoder(file: str) -> bool:
    """Whether a file of L1 is another one when other zstd frames are written: spectra, and the list of all files."""
    *_, folder, name = ("", *file.split("/"))
    return folder == "spectra" or (name == "zarr.json" and folder.startswith(("scan_", "band_")))


def _compared(name: str, found: _Found, expected: _Found, *, encoded: bool) -> Check:
    names = expected.files.keys() | found.files.keys()
    chosen = [n for n in names if not (encoded and depends_on_the_encoder(n))]
    differing = sorted(n for n in chosen if expected.files.get(n) != found.files.get(n))
    arrays = sorted(n for n in expected.arrays if encoded and expected.arrays[n] != found.arrays.get(n))
    report = found.report
    notes = sorted({note for scan in report.scans for note in scan.notes})
    on_host = [n for n in notes if "on the host" in n]
    message = next((scan.message for scan in report.scans if scan.error == "DeviceLost"), "")
    what = [f"{len(chosen)} files, {len(differing)} differ"]
    if encoded:
        what.append(f"{len(arrays)} of {len(expected.arrays)} decoded arrays differ")
    detail = "; ".join([*what, f"{report.count('ok')} scans ok", *notes, *([message] if message else [])])
    wrong = differing or arrays or on_host or report.count("failed") or not expected.arrays
    return Check(name, "differs" if wrong else "ok", detail)
