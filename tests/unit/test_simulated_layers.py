"""A simulated night under layers of air: what it is made of, and that telescope profiles return its truth."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import calib_gpu
from calib_gpu import ConfigError, Settings, calibrate
from calib_gpu.config_files import read_profile
from calib_gpu.simulate import Truth, closure, read_truth, realistic, simulate, truth_path
from calib_gpu.simulate.air import AIRMASS, BANDS_HZ, GROUND_K, PRESSURE_HPA, PWV_MM, layers
from small_scan import planck

STEP = 1e6


@pytest.mark.parametrize("band", BANDS_HZ)
def test_the_layers_are_those_of_am(tmp_path: Path, band: tuple[float, float]) -> None:
    """At water vapours, airmasses and frequencies between the nodes: 5e-4 in transmission, 0.15 K in the sky."""
    pytest.importorskip("am", reason="am-python is not here: pip install 'calib-gpu[atm]'")
    from layered_sky import LayeredSky

    am = LayeredSky(tmp_path)
    for low in (band[0] + 1.5e9, band[1] - 0.6e9):  # a line of ozone at 479.6, clear air at 493.8 GHz among them
        nu = (round(low / STEP) + np.arange(200)) * STEP
        air = layers(nu)
        for w, x in ((0.25, 1.0), (1.2, 2.37)):
            t_am, sky = am(nu, w, x)
            t = np.exp(-x * air.tau(w))
            np.testing.assert_allclose(t, t_am, rtol=0, atol=5e-4)
            made = air.brightness(w, x) * (1.0 - t) + planck(nu, 2.725) * t
            np.testing.assert_allclose(made, sky, rtol=0, atol=0.15)


def test_layers_are_not_what_the_calibration_thinks_of_them() -> None:
    """The opacity is not a straight line in the water vapour, and the brightness depends on water vapour and airmass."""
    air = layers(np.linspace(491e9, 493e9, 50))
    bend = air.tau(0.9) - 2.0 * air.tau(0.55) + air.tau(0.2)
    assert np.all(bend > 1e-4)
    assert np.all(air.brightness(0.9, 2.0) > air.brightness(0.2, 2.0))
    assert np.all(air.brightness(0.5, 2.0) > air.brightness(0.5, 1.0))


def calibrated(folder: Path, settings: Settings, config: Any) -> list[tuple[float, float, Any]]:
    """PWV over the truth and the worst T_A* over the truth, less 1, and the attributes of every science scan."""
    truth: Truth = simulate(folder / "night.zarr", config)
    calibrate(folder / "night.zarr", folder / "l1.zarr", settings)
    out = []
    for number in (n for n, role in truth.roles.items() if role == "science"):
        of, l1 = truth.scans[number], zarr.open_group(str(folder / "l1.zarr"), mode="r")[f"scan_{number:06d}"]
        water = l1.attrs["pwv_mm"] / np.delete(of.pwv, of.on_index).mean() - 1.0
        t = truth.transmission(number, int(of.on_index[0]))[0]
        ta = t / np.exp(-l1["airmass"][0] * l1["tau_signal"][:]) - 1.0
        out.append((float(water), float(np.abs(ta).max()), l1.attrs))
    return out


@pytest.mark.parametrize("pwv", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("elevation", [25.0, 45.0, 80.0])
def test_a_telescope_profile_returns_the_truth(tmp_path: Path, pwv: float, elevation: float) -> None:
    """Three per mille in water vapour and T_A*: the worst seen is 0.23 and 0.11 %."""
    config = closure(sky="layers", pwv=pwv, elevation=elevation, night=False, n_scans=1)
    profile = Settings.layered(profile=read_profile("fyst-chai-lfa"))
    ((water, ta, attrs),) = calibrated(tmp_path, profile, config)
    assert attrs["pwv_status"] == "ok"
    assert abs(water) < 3e-3
    assert ta < 3e-3
    assert attrs["qa"]["pwv_rms_k"] < 0.1


def test_a_night_with_noise_and_drifts(tmp_path: Path) -> None:
    found = calibrated(
        tmp_path, Settings.layered(profile=read_profile("fyst-chai-lfa")), realistic("tiny", sky="layers")
    )
    assert len(found) == 3
    assert all(abs(water) < 3e-3 for water, _, _ in found)


def test_air_of_one_temperature_does_not_fit_it(tmp_path: Path) -> None:
    """The default settings take a slab at ambient temperature: 7 to 15 % of water are missing, as on any layered sky."""
    config = closure(sky="layers", night=False, n_scans=1)
    ((water, ta, attrs),) = calibrated(tmp_path, Settings(), config)
    assert -0.15 < water < -0.07
    assert 0.02 < ta < 0.09
    assert attrs["scan_flags"] & 128


@pytest.mark.parametrize(("changes", "word"), [
    ({"t_amb": 268.0}, "t_amb"), ({"pressure": 540.0}, "pressure"), ({"t_atm_factor": 0.95}, "t_atm_factor"),
    ({"pwv": PWV_MM[0] - 0.01}, "pwv"), ({"pwv": PWV_MM[-1] + 0.01}, "pwv"), ({"elevation": 19.0}, "elevation"),
])  # fmt: skip
def test_what_the_layers_do_not_cover_is_refused(tmp_path: Path, changes: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        simulate(tmp_path / "night.zarr", closure(sky="layers", **changes))
    assert not any(tmp_path.iterdir())
    assert 1.0 / np.sin(np.radians(19.0)) > AIRMASS[-1]


def test_the_layers_say_where_they_are_from() -> None:
    folder = Path(calib_gpu.__file__).parent / "simulate" / "layers"
    attrs = zarr.open_group(str(folder), mode="r").attrs
    assert (attrs["pwv_mm"], attrs["airmass"]) == (list(PWV_MM), list(AIRMASS))
    assert (attrs["pressure_hpa"], attrs["ground_temperature_k"]) == (PRESSURE_HPA, GROUND_K)
    assert attrs["generator"].startswith("am 14")
    assert "Paine" in attrs["credit"]
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 200_000


def test_other_frequencies_have_no_layers() -> None:
    with pytest.raises(ConfigError, match="no layers for this band"):
        layers(np.linspace(345e9, 346e9, 10))


def test_a_truth_from_before_the_layers_is_read(tmp_path: Path) -> None:
    made = simulate(tmp_path / "night.zarr", closure(night=False, n_scans=1))
    for name in ("b2_signal", "b2_image"):
        shutil.rmtree(truth_path(tmp_path / "night.zarr") / "sky" / name)
    old = read_truth(tmp_path / "night.zarr")
    assert not old.b2_signal.any()
    np.testing.assert_array_equal(old.transmission(25650, 1)[0], made.transmission(25650, 1)[0])
