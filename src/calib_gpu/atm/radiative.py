"""Radiative transfer by am, the atmospheric model of Scott Paine (SAO), through the package am-python."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError

Floats = NDArray[np.float64]

CREDIT: Final = "am atmospheric model, Scott Paine, Smithsonian Astrophysical Observatory, doi:10.5281/zenodo.8161261"
BACKGROUND_K: Final = 2.725
_VOIGT_ABOVE_HPA: Final = 1.5
_PWV_STEPS: Final = 4
_GRAVITY: Final = 9.80665
_MASS_AIR: Final = 28.964
_MASS_WATER: Final = 18.0153
_MASS_OZONE: Final = 47.998


@dataclass(frozen=True)
class Spectra:
    """Results of one profile at several airmasses: ``tau`` at zenith ``[F]`` Np, ``sky`` ``[A, F]`` Rayleigh-Jeans K."""

    tau: Floats
    sky: Floats


def require_am() -> Any:
    """The module ``am``; :class:`ConfigError` names the extra where it is missing."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the work is shared out to processes
    try:
        import am
    except ImportError:
        raise ConfigError(
            "am-python computes opacities, and is not here (it is for Linux)", fix="pip install 'calib-gpu[atm]'"
        ) from None
    return am


def generator() -> str:
    """Name and version of what computes."""
    am = require_am()
    found = re.search(
        r"am version ([\d.]+)", _model(am, _document([(100.0, 250.0, 5.0, 1.0)], (100.0, 100.1, 0.1), 1.0)).summary()
    )
    return f"am {found[1] if found else '?'} (am-python {version('am-python')})"


def keep_coefficients(folder: str) -> None:
    """Let am keep absorption coefficients in a folder, for further airmasses and PWVs; before am is used in a process."""
    os.environ["AM_CACHE_PATH"] = folder


def water_column(rows: Floats) -> float:
    """Water above the telescope in mm, as am counts it: each row is a layer from the pressure above it down to its own."""
    thickness = np.diff(rows[:, 0], prepend=0.0) * 100.0
    water, ozone = rows[:, 2] * 1e-6, rows[:, 3] * 1e-6
    mass = (1.0 - water - ozone) * _MASS_AIR + water * _MASS_WATER + ozone * _MASS_OZONE
    return float(np.sum(thickness / _GRAVITY * water * _MASS_WATER / mass))  # kg/m^2 are mm


def scaled_profile(rows: Floats, fixed_above_hpa: float, pwv_mm: float) -> Floats:
    """The profile ``[N, 4]`` with its water below a pressure scaled to a total column in mm.

    Raises
    ------
    ConfigError
        The water above that pressure is more than is wanted.
    """
    free = rows[:, 0] > fixed_above_hpa
    fixed = water_column(rows[~free]) if not np.all(free) else 0.0
    if pwv_mm <= fixed:
        raise ConfigError(
            "less water than lies above", array="pwv", value=f"{pwv_mm:g} mm",
            rule=f"> {fixed:.4g} mm, the water above {fixed_above_hpa:g} hPa",
        )  # fmt: skip
    out = rows.copy()
    for _ in range(_PWV_STEPS):  # nearly linear: the water displaces a little dry air
        out[free, 2] *= (pwv_mm - fixed) / (water_column(out) - fixed)
    return out


def compute(rows: Floats, first: int, last: int, step_hz: float, airmass: Floats) -> Spectra:
    """Zenith opacity and sky temperature of a profile at the frequencies n step, n = first to last.

    Parameters
    ----------
    rows
        ``[N, 4]``: pressure [hPa], temperature [K], water and ozone [ppm], from the top down.
    airmass
        ``[A]``, plane parallel.
    """
    am = require_am()
    step = step_hz / 1e9
    band = (round(first * step, 9), round(last * step, 9), step)
    models = [_model(am, _document(rows, band, float(x))) for x in airmass]
    for model in models:
        model.compute()
    n = last - first + 1
    if any(model.frequency.size != n for model in models):
        raise ConfigError("am gives another frequency grid", array="band", value=band, rule=f"{n} points")
    sky = np.array([model._inner.raw_outputs["tb_rj"] for model in models])
    return Spectra(np.asarray(models[0]._inner.raw_outputs["opacity"]) / float(airmass[0]), sky)


def _document(rows: Any, band: tuple[float, float, float], x: float) -> str:
    """The configuration of am for a profile, a band in GHz and an airmass."""
    zenith_angle = float(np.degrees(np.arccos(1.0 / x)))
    lines = [
        f"f {band[0]:.9f} GHz {band[1]:.9f} GHz {band[2]:.9f} GHz", "output f GHz tau neper Trj K",
        f"za {zenith_angle:.12g} deg", "tol 1e-4", f"T0 {BACKGROUND_K} K",
    ]  # fmt: skip
    for pressure, temperature, water, ozone in rows:
        lines += ["", "layer", f"Pbase {pressure:.9g} mbar", f"Tbase {temperature:.9g} K"]
        lines += ["lineshape Voigt-Kielkopf"] if pressure < _VOIGT_ABOVE_HPA else []
        lines += ["column dry_air vmr", f"column h2o vmr {water * 1e-6:.9e}", f"column o3 vmr {ozone * 1e-6:.9e}"]
    return "\n".join(lines) + "\n"


def _model(am: Any, document: str) -> Any:
    with tempfile.TemporaryDirectory(prefix="calib-gpu-am-") as folder:
        path = Path(folder) / "model.amc"
        path.write_text(document)
        return am.Model(str(path), [])
