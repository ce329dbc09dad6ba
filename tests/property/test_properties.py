"""Properties that hold whatever the numbers are: Hypothesis chooses the scan and the change, NumPy says what must follow."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import calib_gpu
from calib_gpu import Settings
from small_scan import SmallScan, small_scan

QUICK = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 10_000)


def result(scan: SmallScan, stored: str = "float64", **options: Any) -> dict[str, Any]:
    """All arrays and attributes of the calibrated scan."""
    with tempfile.TemporaryDirectory() as folder:
        l0 = scan.store(Path(folder) / "l0.zarr", stored)
        report = calib_gpu.calibrate(l0, Path(folder) / "l1.zarr", Settings(workers=1, **options))
        assert report.failures == [], report.failures[0].message
        group = zarr.open_group(f"{folder}/l1.zarr", mode="r")[f"scan_{scan.number:06d}"]
        return {name: array[...] for name, array in group.arrays()} | {"attrs": dict(group.attrs)}


def noisy(seed: int, **changes: Any) -> SmallScan:
    """A scan with 0.1 % noise on every count."""
    scan = small_scan(seed=seed, shape=(48, 2, 1, 2), **changes)
    rng = np.random.default_rng(seed)
    scan.counts *= 1.0 + 1e-3 * rng.normal(size=scan.counts.shape)
    assert scan.loads is not None
    scan.loads *= 1.0 + 1e-3 * rng.normal(size=scan.loads.shape)
    return scan


@given(seed=seeds, power=st.integers(-6, 10))
@QUICK
def test_scaling_all_counts_leaves_ta(seed: int, power: int) -> None:
    scan = noisy(seed)
    before = result(scan)
    scan.counts *= 2.0**power
    assert scan.loads is not None
    scan.loads *= 2.0**power
    after = result(scan)
    np.testing.assert_array_equal(after["flags"], before["flags"])
    np.testing.assert_allclose(after["spectra"], before["spectra"], rtol=1e-12, atol=1e-12)  # a power of two is exact


@given(seed=seeds, level=st.floats(-1e4, 1e6))
@QUICK
def test_a_zero_level_leaves_ta_and_pwv(seed: int, level: float) -> None:
    scan = noisy(seed)
    before = result(scan, clip_trec=1e6)
    scan.counts += level
    assert scan.loads is not None
    scan.loads += level
    after = result(scan, clip_trec=1e6, zero_level=level)
    np.testing.assert_allclose(after["spectra"], before["spectra"], rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(after["trec"], before["trec"], rtol=1e-9)
    assert after["attrs"]["pwv_mm"] == pytest.approx(before["attrs"]["pwv_mm"], rel=1e-9)


@given(seed=seeds)
@QUICK
def test_swapping_on_and_reference_flips_the_sign(seed: int) -> None:
    scan = noisy(seed, modes=("OFF", "ON"))
    before = result(scan, pwv=0.6)
    scan.counts = scan.counts[..., ::-1].copy()
    after = result(scan, pwv=0.6)
    # both are total power: the ON of dump d against the first dump of the OFF; compare dump 0
    np.testing.assert_array_equal(after["spectra"][:, 0], -before["spectra"][:, 0])


@given(seed=seeds)
@QUICK
def test_on_equal_reference_is_exactly_zero(seed: int) -> None:
    scan = noisy(seed, modes=("OTF-OFF", "OTF-ON"))
    scan.counts[...] = np.rint(scan.counts[:, :1, :, :, :1])
    spectra = result(scan, "int32")["spectra"]
    assert np.all(spectra == 0.0)


@given(seed=seeds)
@QUICK
def test_permuting_pixels_permutes_the_output(seed: int) -> None:
    scan = noisy(seed)
    before = result(scan)
    turned = copy.deepcopy(scan)
    turned.counts = scan.counts[:, :, :, ::-1].copy()
    assert scan.loads is not None
    turned.loads = scan.loads[:, :, :, ::-1].copy()
    for name in ("gain_sig", "gain_img", "frontend_backends"):
        turned.source[name] = scan.source[name][:, ::-1].copy()
    after = result(turned)
    np.testing.assert_allclose(after["spectra"][:, :, :, ::-1], before["spectra"], rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(after["trec"][:, :, ::-1], before["trec"])
    assert after["attrs"]["pwv_mm"] == pytest.approx(before["attrs"]["pwv_mm"], rel=1e-12)


@given(seed=seeds)
@QUICK
def test_r_and_a_are_alike(seed: int) -> None:
    scan = noisy(seed)
    before = result(scan)
    turned = copy.deepcopy(scan)
    turned.counts = np.swapaxes(scan.counts, 2, 3).copy()
    assert scan.loads is not None
    turned.loads = np.swapaxes(scan.loads, 2, 3).copy()
    for name in ("gain_sig", "gain_img", "frontend_backends"):
        turned.source[name] = scan.source[name].T.copy()
    np.testing.assert_array_equal(np.swapaxes(result(turned)["spectra"], 2, 3), before["spectra"])


@given(seed=seeds, order=st.permutations(range(5)))
@QUICK
def test_the_order_of_subscans_in_the_store_does_not_matter(seed: int, order: list[int]) -> None:
    scan = noisy(seed)
    before = result(scan)
    turned = copy.deepcopy(scan)
    turned.counts = scan.counts[..., order].copy()
    for name, values in scan.source.items():
        if name == "sobsmode":
            turned.source[name] = [values[i] for i in order]
        elif np.shape(values)[-1:] == (5,):
            turned.source[name] = np.asarray(values)[..., order]
    after = result(turned)
    place = [order.index(i) for i in before["on_index"]]
    into = [after["on_index"].tolist().index(p) for p in place]
    np.testing.assert_allclose(after["spectra"][..., into], before["spectra"], rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(after["mjd"][into], before["mjd"])


@given(seed=seeds, where=st.tuples(st.integers(0, 47), st.integers(0, 1), st.integers(0, 4)))
@QUICK
def test_nan_in_one_pixel_touches_no_other(seed: int, where: tuple[int, int, int]) -> None:
    scan = noisy(seed)
    before = result(scan, pwv=0.6)
    c, d, s = where
    scan.counts[c, d, 0, 0, s] = np.nan
    after = result(scan, pwv=0.6)
    np.testing.assert_array_equal(after["spectra"][:, :, :, 1], before["spectra"][:, :, :, 1])
    np.testing.assert_array_equal(after["flags"][:, :, :, 1], before["flags"][:, :, :, 1])


@given(seed=seeds)
@QUICK
def test_swapped_loads_give_bad_channels(seed: int) -> None:
    scan = noisy(seed)
    assert scan.loads is not None
    scan.loads[:, :, 0, 0] = scan.loads[:, :, 0, 0, ::-1].copy()
    after = result(scan, pwv=0.6)
    assert after["bad_channels"][:, 0, 0].all()
    assert np.all(after["flags"][:, :, 0, 0] & 1)
    assert not after["bad_channels"][:, 0, 1].any()


@given(seed=seeds, dtype=st.sampled_from(["int32", "int64", "float32", "float64"]), data=st.data())
@QUICK
def test_nan_if_and_only_if_flagged(seed: int, dtype: str, data: st.DataObject) -> None:
    scan = noisy(seed)
    rng = np.random.default_rng(seed)
    odd = [0.0, -5.0, 3e9 if dtype != "int32" else 2e9, -(2.0**31)] + (
        [np.nan, np.inf, -np.inf] if dtype[0] == "f" else []
    )
    for _ in range(30):
        spot = tuple(int(rng.integers(n)) for n in scan.counts.shape)
        scan.counts[spot] = odd[int(rng.integers(len(odd)))]
    scan.attrs["adc_saturation"] = 1.9e9
    if data.draw(st.booleans()):
        scan.source["n_dump"] = rng.integers(1, 3, 5)
    options: dict[str, Any] = {"dtype": data.draw(st.sampled_from(["float64", "float32"])), "pwv": 0.6}
    out = result(scan, dtype, reference=data.draw(st.sampled_from(["nearest", "interp"])), **options)
    assert not np.isinf(out["spectra"]).any()
    np.testing.assert_array_equal(np.isnan(out["spectra"]), (out["flags"] & 0x0F03) != 0)
    assert not (out["flags"] & ~np.uint16(0x0F03)).any()
    counts = {
        name: int(np.count_nonzero(out["flags"] & bit))
        for name, bit in (
            ("FILL_VALUE", 2),
            ("INVALID_COUNT", 512),
            ("NONFINITE", 2048),
            ("NO_REFERENCE", 256),
            ("BAD_CHANNEL", 1),
        )
    }
    assert out["attrs"]["flag_counts"] == {name: n for name, n in counts.items() if n}
