"""Airmass, transmission, the sky signal and its least-squares sums (physics, sections 4.1 to 4.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calib_gpu.errors import BadElevation
from calib_gpu.physics.loads import LoadPowers
from calib_gpu.physics.radiation import rayleigh_jeans_temperature

Floats = NDArray[np.float64]

EARTH_RADIUS_KM: Final = 6370.0
MIN_ELEVATION: Final = np.deg2rad(5.0)
PASCAL_PER_TORR: Final = 101325.0 / 760.0


def airmass(elevation: ArrayLike, model: str = "plane_parallel", shell_height_km: float = 4.0) -> Floats:
    """Airmass X at apparent elevation [rad]; elevations beyond the zenith (up to pi) are allowed.

    ``plane_parallel`` is 1/sin(e); ``shell`` a homogeneous shell of height H on the Earth's radius, eq. (11).

    Raises
    ------
    BadElevation
        An elevation is missing or within 5 deg of the horizon.
    """
    e = np.asarray(elevation, dtype=np.float64)
    good = (e >= MIN_ELEVATION) & (e <= np.pi - MIN_ELEVATION)
    if not np.all(good):
        raise BadElevation(
            "no airmass at this elevation", array="elevation", value=f"{float(np.atleast_1d(e[~good])[0]):g} rad",
            rule="5 deg <= elevation <= 175 deg (0.0873 to 3.0543 rad)", fix="check the unit: L0 elevations are in rad",
        )  # fmt: skip
    sine = np.sin(e)
    if model == "plane_parallel":
        return np.asarray(1.0 / sine)
    rs, h = EARTH_RADIUS_KM * sine, shell_height_km
    return np.asarray((np.sqrt(rs * rs + 2.0 * EARTH_RADIUS_KM * h + h * h) - rs) / h)


def transmission(tau_zenith: Floats, x: ArrayLike) -> Floats:
    """Transmission along the line of sight, min(exp(-X tau), 1); ``tau_zenith`` [Np], airmass X (scalar or broadcast)."""
    return np.minimum(np.exp(-np.asarray(x) * tau_zenith), 1.0)


@dataclass(frozen=True)
class Opacity:
    """Zenith opacity tau = b w + c of both bands on the scan's channels: ``b`` in Np per mm, ``c`` in Np, ``[C]``.

    The image band is zero where a single-sideband receiver sees none (``has_image`` false).
    ``t_eff``, where the table has it, is the effective radiating temperature [K] per band.
    """

    b_signal: Floats
    c_signal: Floats
    b_image: Floats
    c_image: Floats
    has_image: bool = True
    clamped: bool = False
    t_eff_signal: Floats | None = None
    t_eff_image: Floats | None = None

    def tau(self, pwv: float) -> tuple[Floats, Floats]:
        """Zenith opacity of signal and image band [Np]; the image is NaN where it was not looked up."""
        signal = self.b_signal * pwv + self.c_signal
        image = self.b_image * pwv + self.c_image
        return signal, image if self.has_image else np.full_like(image, np.nan)


@dataclass(frozen=True)
class SkyModel:
    """S_H(w) = K0 - A_s t_s(w) - A_i t_i(w), eq. (13), for one pixel: ``k0``, ``a_signal``, ``a_image`` in K, ``[C]``."""

    k0: Floats
    a_signal: Floats
    a_image: Floats


@dataclass(frozen=True)
class SkyTemperatures:
    """J of the atmosphere, the spillover and the background per band, K, ``[C]``."""

    atm_signal: Floats
    atm_image: Floats
    spill_signal: Floats
    spill_image: Floats
    background_signal: Floats
    background_image: Floats

    @classmethod
    def of(
        cls, signal: Floats, image: Floats, t_atm: tuple[ArrayLike, ArrayLike], t_spill: float, t_bg: float
    ) -> SkyTemperatures:
        """From physical temperatures [K]; ``t_atm`` is one per band, scalar or ``[C]``."""
        j = rayleigh_jeans_temperature
        return cls(
            j(signal, t_atm[0]),
            j(image, t_atm[1]),
            j(signal, t_spill),
            j(image, t_spill),
            j(signal, t_bg),
            j(image, t_bg),
        )


def sky_model(t: SkyTemperatures, powers: LoadPowers, g_signal: Floats, g_image: Floats, eta_f: float) -> SkyModel:
    """Coefficients of the sky signal for one pixel, eq. (13)."""
    k0 = g_signal * (eta_f * t.atm_signal + (1.0 - eta_f) * t.spill_signal - powers.hot_signal) + g_image * (
        eta_f * t.atm_image + (1.0 - eta_f) * t.spill_image - powers.hot_image
    )
    a_signal = g_signal * eta_f * (t.atm_signal - t.background_signal)
    a_image = g_image * eta_f * (t.atm_image - t.background_image)
    return SkyModel(k0, a_signal, a_image)


def sky_signal(off: Floats, hot: Floats, gain: Floats) -> Floats:
    """Observed sky signal S_H = (C_OFF - C_h) / G [K], eq. (12); ``off`` may have more axes in front of ``[C]``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (off - hot) / gain


@dataclass(frozen=True)
class SkySums:
    """Weighted sums over pixels that make chi2 of eq. (14) at any PWV, exactly and for any gains; each ``[O, C]``.

    With y = S_obs - K0 the residual is r = y + A_s t_s + A_i t_i, so that chi2 is quadratic in the transmissions:
    chi2 = sum_oc [ yy + 2 ys t_s + 2 yi t_i + ss t_s^2 + 2 si t_s t_i + ii t_i^2 ]
    where yy = sum_p W y^2, ys = sum_p W y A_s, and so on. ``n`` counts the data.
    """

    yy: Floats
    ys: Floats
    yi: Floats
    ss: Floats
    si: Floats
    ii: Floats
    n: NDArray[np.int64]

    @classmethod
    def zeros(cls, n_off: int, n_channel: int) -> SkySums:
        """Sums of no pixel."""
        yy, ys, yi, ss, si, ii = (np.zeros((n_off, n_channel)) for _ in range(6))
        return cls(yy, ys, yi, ss, si, ii, np.zeros((n_off, n_channel), np.int64))

    @classmethod
    def of_pixel(cls, observed: Floats, model: SkyModel, mask: NDArray[np.bool_]) -> SkySums:
        """Sums of one pixel with unit weights: ``observed`` S_H,obs and ``mask`` (true = use) are ``[O, C]``."""
        w = mask.astype(np.float64)
        y = np.where(mask, observed - model.k0, 0.0)
        a_s, a_i = np.where(mask, model.a_signal, 0.0), np.where(mask, model.a_image, 0.0)
        return cls(y * y, y * a_s, y * a_i, a_s * a_s, a_s * a_i, a_i * a_i, w.astype(np.int64))

    def add(self, other: SkySums) -> None:
        """Add the sums of another pixel in place."""
        for name in self.__dataclass_fields__:
            total = getattr(self, name)
            np.add(total, getattr(other, name), out=total)

    def off(self, index: int) -> SkySums:
        """The sums of one OFF alone."""
        return SkySums(*(getattr(self, name)[index : index + 1] for name in self.__dataclass_fields__))

    @property
    def size(self) -> int:
        """Number of data N."""
        return int(self.n.sum())


@dataclass(frozen=True)
class Chi2:
    """chi2 and its derivatives with respect to w at one PWV, and F = sum W S'^2 (eq. 15)."""

    value: float
    slope: float
    curvature: float
    fisher: float


def chi2_grid(sums: SkySums, opacity: Opacity, x: Floats, grid: Floats) -> Floats:
    """chi2 of every grid point and OFF, ``[grid, O]``; sum over OFFs for the joint fit.

    ``x`` is the airmass of each OFF ``[O]``, ``grid`` the PWV values [mm].
    """
    n_off, n_channel = sums.yy.shape
    chi2 = np.empty((grid.size, n_off))
    t_s, t_i, work = np.empty(n_channel), np.empty(n_channel), np.empty(n_channel)
    for o in range(n_off):
        b_s, c_s, b_i, c_i = (-x[o] * v for v in (opacity.b_signal, opacity.c_signal, opacity.b_image, opacity.c_image))
        ys2, yi2, si2, constant = 2.0 * sums.ys[o], 2.0 * sums.yi[o], 2.0 * sums.si[o], sums.yy[o].sum()
        for j, w in enumerate(grid):
            _exp(b_s, c_s, w, t_s)
            np.multiply(sums.ss[o], t_s, out=work)
            work += ys2
            if opacity.has_image:
                _exp(b_i, c_i, w, t_i)
                t_s_i = si2 * t_i
                work += t_s_i
            work *= t_s
            if opacity.has_image:
                work += (yi2 + sums.ii[o] * t_i) * t_i
            chi2[j, o] = constant + np.sum(work)
    return chi2


def _exp(b: Floats, c: Floats, w: float, out: Floats) -> None:
    np.multiply(b, w, out=out)
    out += c
    np.exp(out, out=out)


def chi2_at(sums: SkySums, opacity: Opacity, x: Floats, w: float) -> Chi2:
    """chi2, chi2', chi2'' and F at PWV ``w`` [mm], closed form (eqs. 14, 15)."""
    value = slope = curvature = fisher = 0.0
    for o in range(x.size):
        t_s = np.exp(-x[o] * (opacity.b_signal * w + opacity.c_signal))
        t_i = np.exp(-x[o] * (opacity.b_image * w + opacity.c_image))
        # sums over pixels of W r A_s and W r A_i, with r = y + A_s t_s + A_i t_i
        r_s = sums.ys[o] + sums.ss[o] * t_s + sums.si[o] * t_i
        r_i = sums.yi[o] + sums.si[o] * t_s + sums.ii[o] * t_i
        d_s, d_i = x[o] * opacity.b_signal * t_s, x[o] * opacity.b_image * t_i  # S' = A_s d_s + A_i d_i
        e_s, e_i = x[o] * opacity.b_signal * d_s, x[o] * opacity.b_image * d_i  # S'' = -(A_s e_s + A_i e_i)
        f = sums.ss[o] * d_s * d_s + 2.0 * sums.si[o] * d_s * d_i + sums.ii[o] * d_i * d_i
        yt = sums.yy[o] + sums.ys[o] * t_s + sums.yi[o] * t_i + r_s * t_s + r_i * t_i
        value += float(np.sum(yt))
        slope += -2.0 * float(np.sum(r_s * d_s + r_i * d_i))
        f_sum = float(np.sum(f))
        curvature += 2.0 * (f_sum + float(np.sum(r_s * e_s + r_i * e_i)))
        fisher += f_sum
    return Chi2(max(value, 0.0), slope, curvature, fisher)
