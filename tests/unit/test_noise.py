"""With noise: pulls of PWV and T_A* have mean 0 and width 1, the rms is the radiometer equation's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import zarr

from calib_gpu import Settings
from calib_gpu.pipeline import calibrate
from calib_gpu.simulate import SimulationConfig, expected_spectra, simulate

SCANS = 40
SHAPE = (1024, 2, 1, 2, 8)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object]:
    folder = tmp_path_factory.mktemp("noise")
    config = SimulationConfig("tiny", shape=SHAPE, seed=11, n_scans=SCANS, night=False, load_dumps=100, continuum=0.0)
    truth = simulate(folder / "l0.zarr", config)
    report = calibrate(folder / "l0.zarr", folder / "l1.zarr", Settings())
    assert report.exit_code == 0
    return zarr.open_group(str(folder / "l1.zarr"), mode="r"), truth


def test_pulls_of_pwv(night) -> None:  # type: ignore[no-untyped-def]
    l1, truth = night
    pulls = np.array([
        (l1[f"scan_{n:06d}"].attrs["pwv_mm"] - truth.config.pwv) / l1[f"scan_{n:06d}"].attrs["pwv_err_mm"] for n in truth.scans
    ])  # fmt: skip
    assert len(pulls) == SCANS
    assert abs(pulls.mean()) < 3.5 / np.sqrt(SCANS)
    # width of N pulls: 1 +- 1/sqrt(2N); the quoted error leaves out what the loads' noise does to all OFFs alike
    assert pulls.std(ddof=1) == pytest.approx(1.0, abs=3.5 / np.sqrt(2 * SCANS))


def test_pulls_of_ta(night) -> None:  # type: ignore[no-untyped-def]
    l1, truth = night
    number = next(iter(truth.scans))
    scan = l1[f"scan_{number:06d}"]
    spectra, t_sys = scan["spectra"][:], scan["t_sys"][:]
    t_on, t_ref = scan["exptime_on"][:], scan["exptime_ref"][:]
    # dumps share the noise of their reference: of the mean over dumps, t_on is the whole subscan's
    mean = spectra.mean(axis=1)
    pulls = []
    for s, r, a in np.ndindex(mean.shape[3], mean.shape[1], mean.shape[2]):
        expected = expected_spectra(truth, number, s, r, a).mean(axis=1)
        sigma = t_sys[:, r, a, s] * np.sqrt((1 / (t_on[s] * SHAPE[1]) + 1 / t_ref[s]) / truth.config.channel_spacing)
        pulls.append((mean[:, r, a, s] - expected) / sigma)
    pulls = np.array(pulls)
    n = pulls[:2].size  # ONs that share an OFF are not independent: count two subscans only
    assert abs(pulls.mean()) < 3.5 / np.sqrt(n)
    assert pulls.std() == pytest.approx(1.0, abs=0.03)


def robust_width(sigma: np.ndarray) -> float:
    """1.4826 MAD of channels of unequal noise: T_sys varies over the band with the lines of the atmosphere."""
    low, high = 0.1 * sigma.min(), 10.0 * sigma.max()
    while high - low > 1e-6 * high:
        mid = 0.5 * (low + high)
        inside = np.mean([math.erf(mid / (s * math.sqrt(2.0))) for s in sigma])
        low, high = (low, mid) if inside > 0.5 else (mid, high)
    return 1.4826 * low


def test_rms_is_the_radiometer_equations(night) -> None:  # type: ignore[no-untyped-def]
    l1, truth = night
    ratios = np.array([np.array(l1[f"scan_{n:06d}"].attrs["qa"]["rms_ratio"]) for n in truth.scans])
    t_sys = l1[f"scan_{next(iter(truth.scans)):06d}"]["t_sys"][:, 0, :, 0]
    expected = [robust_width(column) / np.median(column) for column in t_sys.T]
    np.testing.assert_allclose(ratios.mean(axis=0)[0], expected, atol=0.015)
    for number in list(truth.scans)[:5]:
        scan = l1[f"scan_{number:06d}"]
        free = truth.line_profile < 1e-3 * truth.line_profile.max()
        spectra = scan["spectra"][:][free]
        sigma = scan["t_sys"][:][free] * np.sqrt(
            (1 / scan["exptime_on"][:] + 1 / scan["exptime_ref"][:]) / truth.config.channel_spacing
        )
        assert (spectra / sigma[:, None]).std() == pytest.approx(1.0, abs=0.03)
