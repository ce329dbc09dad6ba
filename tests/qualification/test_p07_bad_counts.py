"""P7: bad counts are flagged, each sample with its own reason and no other; NaN and the flags say the same; never Inf.

The samples that are spoilt are chosen here, so that the number of each flag is known before the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import calib_gpu
from calib_gpu import Settings
from calib_gpu.schema import Flag
from small_scan import SmallScan, small_scan

C, D, R, A = SHAPE = (32, 4, 1, 2)
ON = (1, 2, 4)
"""ON subscans of the small scan; OFFs are 0 and 3."""
ENGINE = 0x0F03

Planted = dict[Flag, int]


@dataclass(frozen=True)
class Case:
    """``spoil`` changes the scan and tells how many samples must get each flag; ``error``: the scan must fail with it."""

    spoil: Callable[[SmallScan], Planted]
    dtype: str = "float64"
    options: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def spots(seed: int, n: int) -> tuple[np.ndarray, ...]:
    """Indices of ``n`` different samples of the ONs, for an array [C, D, R, A, S]."""
    c, d, r, a, s = np.unravel_index(
        np.random.default_rng(seed).choice(C * D * R * A * len(ON), n, replace=False), (C, D, R, A, len(ON))
    )
    return c, d, r, a, np.array(ON)[s]


def put(flag: Flag | None, value: float, n: int = 37) -> Callable[[SmallScan], Planted]:
    """Some ON samples with a value."""

    def spoil(scan: SmallScan) -> Planted:
        scan.counts[spots(3, n)] = value
        return {} if flag is None else {flag: n}

    return spoil


def saturated(scan: SmallScan) -> Planted:
    scan.attrs["adc_saturation"] = float(scan.counts.max()) * 2.0
    scan.counts[spots(4, 21)] = scan.attrs["adc_saturation"]
    return {Flag.INVALID_COUNT: 21}


def no_reference(scan: SmallScan) -> Planted:
    scan.counts[5, :, 0, 1, 0] = scan.counts[5, :, 0, 1, 3] = np.nan  # one channel of one pixel, in all OFFs
    return {Flag.NO_REFERENCE: D * len(ON)}


def one_reference_dump(scan: SmallScan) -> Planted:
    scan.counts[:, 1, :, :, 0] = np.nan
    return {}


def dead_reference(scan: SmallScan) -> Planted:
    scan.counts[7:9, :, 0, 0, 0] = scan.counts[7:9, :, 0, 0, 3] = 0.0
    return {Flag.NO_REFERENCE: 2 * D * len(ON)}


def loads(hot: float | None, cold: float | None) -> Callable[[SmallScan], Planted]:
    """Two channels of one pixel whose loads are multiples of what they should be."""

    def spoil(scan: SmallScan) -> Planted:
        assert scan.loads is not None
        for s, factor in ((0, hot), (1, cold)):
            if factor is not None:
                scan.loads[10:12, :, 0, 1, s] *= factor
        return {Flag.BAD_CHANNEL: 2 * D * len(ON)}

    return spoil


def dead_pixel(scan: SmallScan) -> Planted:
    assert scan.loads is not None
    scan.counts[:, :, 0, 1] = 0.0
    scan.loads[:, :, 0, 1] = 0.0
    n = C * D * len(ON)
    return {Flag.BAD_CHANNEL: n, Flag.NO_REFERENCE: n, Flag.INVALID_COUNT: n}


def opaque(scan: SmallScan) -> Planted:
    limit = float(np.median(scan.truth["t_signal"]))
    return {Flag.OPAQUE: int(np.sum(scan.truth["t_signal"] < limit)) * D * R * A * len(ON)}


def padding(scan: SmallScan) -> Planted:
    scan.source["n_dump"] = np.array([4, 4, 2, 4, 3])  # what lies behind looks like data
    return {Flag.FILL_VALUE: C * R * A * (2 + 1)}


def integer_fill(scan: SmallScan) -> Planted:
    scan.counts[spots(5, 50)] = -(2.0**31)
    return {Flag.FILL_VALUE: 50}


def other_fill(scan: SmallScan) -> Planted:
    scan.array_attrs["fill"] = 4_000_000_000
    scan.counts[spots(6, 17)] = 4e9
    return {Flag.FILL_VALUE: 17}


def constant(scan: SmallScan) -> Planted:
    scan.counts[...] = scan.counts[:1].mean(axis=(0, 1, 2, 3))
    return {}


def large(scan: SmallScan) -> Planted:
    """Counts near the end of int32: their sums over dumps are beyond it."""
    assert scan.loads is not None
    factor = 2.0e9 / max(scan.counts.max(), scan.loads.max())
    scan.counts *= factor
    scan.loads *= factor
    return {}


def classes(*names: str) -> Callable[[SmallScan], Planted]:
    def spoil(scan: SmallScan) -> Planted:
        scan.source["sobsmode"] = list(names)
        return {}

    return spoil


def no_cold(scan: SmallScan) -> Planted:
    scan.calibration["sobsmode"] = ["HOT", "HOT"]
    return {}


def absent_loads(scan: SmallScan) -> Planted:
    scan.loads = None
    scan.source["lloadsn"] = np.full(5, 12345)
    return {}


def together(scan: SmallScan) -> Planted:
    """Several reasons in different samples, and two in one."""
    planted = put(Flag.NONFINITE, np.inf, 11)(scan)
    planted |= no_reference(scan)
    both = np.isinf(scan.counts[5, :, 0, 1][:, list(ON)]).sum()
    return planted | {Flag.NONFINITE: 11 - int(both)}  # NONFINITE is any other reason


FIXED = {"pwv": 0.6}
CASES: dict[str, Case] = {
    "ON missing, NaN": Case(put(Flag.FILL_VALUE, np.nan)),
    "ON missing, int32 minimum": Case(integer_fill, "int32"),
    "ON missing, fill of uint32": Case(other_fill, "uint32"),
    "padding longer than the data": Case(padding),
    "REF missing in all dumps": Case(no_reference),
    "REF missing in one dump of several": Case(one_reference_dump),
    "REF zero in all dumps": Case(dead_reference),
    "HOT below COLD": Case(loads(0.1, None)),
    "HOT equals COLD equals 0": Case(loads(0.0, 0.0)),
    "HOT infinite": Case(loads(np.inf, None)),
    "COLD missing": Case(loads(None, np.nan)),
    "T_rec below 0": Case(loads(None, 0.05)),
    "T_rec far above its median": Case(loads(None, 1.9)),
    "count zero": Case(put(Flag.INVALID_COUNT, 0.0)),
    "count negative": Case(put(Flag.INVALID_COUNT, -5.0), "int32"),
    "count saturated": Case(saturated),
    "opaque": Case(opaque),
    "count infinite": Case(put(Flag.NONFINITE, np.inf)),
    "count minus infinite": Case(put(Flag.NONFINITE, -np.inf)),
    "count 1e30": Case(put(None, 1e30)),
    "count denormal": Case(put(None, 5e-324)),
    "dead pixel": Case(dead_pixel),
    "several reasons": Case(together),
    "constant counts": Case(constant, options=FIXED),
    "sums beyond 2^31": Case(large, "int32"),
    "single OFF": Case(classes("OTF-OFF", "OTF-ON", "OTF-ON", "SKY", "OTF-ON")),
    "ON before the first OFF": Case(classes("OTF-ON", "OTF-ON", "OTF-ON", "OTF-OFF", "OTF-ON")),
    "no OFF": Case(classes("OTF-ON", "OTF-ON", "OTF-ON", "OTF-ON", "OTF-ON"), error="NoReference"),
    "HOT without COLD": Case(no_cold, error="NoLoads"),
    "loads missing where lloadsn points": Case(absent_loads, error="NoLoads"),
}


def opaque_limit(scan: SmallScan) -> float:
    return float(np.median(scan.truth["t_signal"]))


@pytest.mark.parametrize("name", CASES)
def test_every_planted_sample_gets_its_flag(tmp_path: Path, name: str, figure: Any) -> None:
    case = CASES[name]
    scan = small_scan(shape=SHAPE)
    options = {"t_min": opaque_limit(scan)} if name == "opaque" else case.options
    planted = case.spoil(scan)
    l0 = scan.store(tmp_path / "l0.zarr", case.dtype)
    report = calib_gpu.calibrate(l0, tmp_path / "l1.zarr", Settings(workers=1, **options))
    (line,) = report.scans
    if case.error:
        figure("P7", name, line.error, case.error)
        assert line.error == case.error, line.message
        return
    assert line.status == "ok", line.message
    group = zarr.open_group(f"{tmp_path}/l1.zarr", mode="r")[f"scan_{scan.number:06d}"]
    spectra, flags = group["spectra"][...], group["flags"][...]
    found = {flag: int(np.count_nonzero(flags & int(flag))) for flag in Flag if np.any(flags & int(flag))}
    figure("P7", name, {f.name: n for f, n in found.items()}, {f.name: n for f, n in planted.items()})
    np.testing.assert_array_equal(np.isnan(spectra), (flags & ENGINE) != 0)
    assert not np.isinf(spectra).any()
    assert found == planted
    assert {name: n for name, n in line.flag_counts.items() if n} == {f.name: n for f, n in planted.items()}


@pytest.mark.parametrize(("c", "d"), [(1, 3), (32, 1), (1, 1)])
def test_the_smallest_scans(tmp_path: Path, c: int, d: int) -> None:
    """A single channel leaves too little for a fit and for clipping, but not for numbers."""
    scan = small_scan(shape=(c, d, 1, 1))
    report = calib_gpu.calibrate(scan.store(tmp_path / "l0.zarr"), tmp_path / "l1.zarr", Settings(workers=1, pwv=0.6))
    assert report.scans[0].status == "ok", report.scans[0].message
    spectra = zarr.open_group(f"{tmp_path}/l1.zarr", mode="r")[f"scan_{scan.number:06d}"]["spectra"][...]
    assert spectra.shape == (c, d, 1, 1, 3)
    np.testing.assert_allclose(spectra, scan.truth["ta"], rtol=1e-9, atol=1e-9)


def test_a_scan_without_ons_is_no_failure(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    scan.source["sobsmode"] = ["OTF-OFF"] * 5
    report = calib_gpu.calibrate(scan.store(tmp_path / "l0.zarr"), tmp_path / "l1.zarr")
    assert report.scans == []
    assert report.exit_code == 1
