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
MODEL_ERROR: Final = 0.01
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
    ``t_eff``, where the table has it, is the effective radiating temperature [K] per band. ``bins`` are the first
    channels of the bins ``[B]`` in which the fit takes mean transmissions; without them every channel counts alone.
    """

    b_signal: Floats
    c_signal: Floats
    b_image: Floats
    c_image: Floats
    has_image: bool = True
    clamped: bool = False
    t_eff_signal: Floats | None = None
    t_eff_image: Floats | None = None
    bins: NDArray[np.intp] | None = None

    def bands(self) -> list[tuple[Floats, Floats]]:
        """B and c of the signal band, and of the image band where there is one."""
        signal = [(self.b_signal, self.c_signal)]
        return [*signal, (self.b_image, self.c_image)] if self.has_image else signal

    def mean(self, values: Floats) -> Floats:
        """Mean of ``[C]`` in each bin ``[B]``: of exp(-X tau), never exp of the mean; ``values`` itself without bins."""
        return values if self.bins is None else bin_sums(values, self.bins) / bin_sums(np.ones_like(values), self.bins)

    def tau(self, pwv: float) -> tuple[Floats, Floats]:
        """Zenith opacity of signal and image band [Np]; the image is NaN where it was not looked up."""
        signal = self.b_signal * pwv + self.c_signal
        image = self.b_image * pwv + self.c_image
        return signal, image if self.has_image else np.full_like(image, np.nan)


def bin_starts(n_channel: int, n_bins: int) -> NDArray[np.intp]:
    """First channels of ``n_bins`` bins of equal channel number (to one channel)."""
    return np.arange(n_bins, dtype=np.intp) * n_channel // n_bins


def bin_sums(values: Floats, starts: NDArray[np.intp]) -> Floats:
    """Sums over the channels (last axis) of each bin."""
    return np.asarray(np.add.reduceat(values, starts, axis=-1))


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


def radiometer_weights(
    observed: Floats, off: Floats, hot: Floats, zero: Floats | float, gain: Floats, bandwidth: float,
    t_off: Floats, t_hot: float,
) -> Floats:  # fmt: skip
    """W = 1 / (sigma_rad^2 + sigma_sys^2) of S_H,obs ``[O, C]``, 1/K^2 (physics, 4.4).

    sigma_rad is the radiometer noise of OFF and HOT (exposures ``t_off`` [O] and ``t_hot`` in s, ``bandwidth`` in Hz),
    sigma_sys a model error of 1 % of the signal.
    """
    variance = (off - zero) ** 2 / (bandwidth * t_off[:, None]) + (hot - zero) ** 2 / (bandwidth * t_hot)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1.0 / (variance / gain**2 + (MODEL_ERROR * observed) ** 2))


def sky_signal(off: Floats, hot: Floats, gain: Floats) -> Floats:
    """Observed sky signal S_H = (C_OFF - C_h) / G [K], eq. (12); ``off`` may have more axes in front of ``[C]``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (off - hot) / gain


@dataclass(frozen=True)
class SkySums:
    """Weighted sums over pixels that make chi2 of eq. (14) at any PWV, exactly and for any gains; each ``[O, C]``.

    With y = S_obs - K0 the residual is r = y + A_s t_s + A_i t_i, so that chi2 is quadratic in the transmissions:
    chi2 = sum_oc [ yy + 2 ys t_s + 2 yi t_i + ss t_s^2 + 2 si t_s t_i + ii t_i^2 ]
    where yy = sum_p W y^2, ys = sum_p W y A_s, and so on. ``w`` sums the weights, ``n`` counts the data.
    """

    yy: Floats
    ys: Floats
    yi: Floats
    ss: Floats
    si: Floats
    ii: Floats
    w: Floats
    n: NDArray[np.int64]

    @classmethod
    def zeros(cls, n_off: int, n_channel: int) -> SkySums:
        """Sums of no pixel."""
        yy, ys, yi, ss, si, ii, w = (np.zeros((n_off, n_channel)) for _ in range(7))
        return cls(yy, ys, yi, ss, si, ii, w, np.zeros((n_off, n_channel), np.int64))

    @classmethod
    def of_pixel(
        cls, observed: Floats, model: SkyModel, mask: NDArray[np.bool_], weights: Floats | None = None
    ) -> SkySums:
        """Sums of one pixel alone; see :meth:`add_pixel`."""
        sums = cls.zeros(*observed.shape)
        sums.add_pixel(observed, model, mask, weights)
        return sums

    def add_pixel(
        self, observed: Floats, model: SkyModel, mask: NDArray[np.bool_], weights: Floats | None = None
    ) -> None:
        """Add a pixel in place: ``observed`` S_H,obs, ``mask`` (true = use) and ``weights`` (None: 1) are ``[O, C]``."""
        a_s, a_i = model.a_signal, model.a_image
        products = ((self.ss, a_s * a_s), (self.si, a_s * a_i), (self.ii, a_i * a_i))
        for o in range(observed.shape[0]):  # OFF by OFF: what one needs stays in the cache
            use = mask[o]
            w = use.astype(np.float64) if weights is None else np.where(use, weights[o], 0.0)
            y = np.where(use, observed[o] - model.k0, 0.0)
            wy = y if weights is None else w * y
            for total, value in ((self.yy, y), (self.ys, a_s), (self.yi, a_i)):
                total[o] += wy * value
            for total, value in products:
                total[o] += w * value
            self.w[o] += w
            self.n[o] += use

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

    ``x`` is the airmass of each OFF ``[O]``, ``grid`` the PWV values [mm]. In every channel chi2 is a sum of two squares of
    (1, t_s, t_i) and a constant (Cholesky); where the gains of all pixels are the same the second is 0 and left out.
    """
    chi2 = np.empty((grid.size, x.size))
    channels = opacity.b_signal.size if opacity.bins is not None else GRID_CHANNELS
    for o in range(x.size):
        squares, constant = _squares(sums, o, opacity.has_image)
        chi2[:, o] = constant
        for c in range(0, sums.yy.shape[1], channels):
            band = slice(c, c + channels)
            both = [(-x[o] * b[band], -x[o] * k[band]) for b, k in opacity.bands()]
            for j in range(0, grid.size, GRID_ROWS):
                rows = slice(j, j + GRID_ROWS)
                t = [opacity.mean(_exp(grid[rows, None], b, k)) for b, k in both]
                for m, factors in squares:
                    z = t[-1] * factors[-1][band]
                    z += m[band]
                    for of_band, k in zip(t, factors[:-1], strict=False):
                        z += of_band * k[band]
                    chi2[rows, o] += np.einsum("jc,jc->j", z, z)
    return chi2


GRID_CHANNELS: Final = 8192
GRID_ROWS: Final = 4
"""Channels and grid points worked on at a time, so that they stay in the cache."""


def _squares(sums: SkySums, o: int, has_image: bool) -> tuple[list[tuple[Floats, list[Floats]]], float]:
    """The squares that make chi2 of an OFF, and the sum of the constants.

    Each is a constant term ``[C]`` and the factors ``[C]`` of the bands, signal before image; the second has the image alone.
    """
    ss, si, ii, ys, yi = (v[o] for v in (sums.ss, sums.si, sums.ii, sums.ys, sums.yi))
    root = np.sqrt(ss)
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0.0)
    m_1, l_21 = ys * inverse, si * inverse
    constant = sums.yy[o] - m_1 * m_1
    if not has_image:
        return [(m_1, [root])], float(constant.sum())
    first = (m_1, [root, l_21])
    rest = ii - l_21 * l_21
    rest[rest <= SAME_GAINS * ii] = 0.0
    if not rest.any():
        return [first], float(constant.sum())
    root = np.sqrt(rest)
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0.0)
    m_2 = (yi - l_21 * m_1) * inverse
    return [first, (m_2, [root])], float((constant - m_2 * m_2).sum())


SAME_GAINS: Final = 1e-13
"""Share of the second square below which it is rounding."""


def _exp(w: Floats, b: Floats, c: Floats) -> Floats:
    """exp(b w + c) ``[grid, C]``."""
    out = w * b
    out += c
    return np.exp(out, out=out)


def chi2_at(sums: SkySums, opacity: Opacity, x: Floats, w: float) -> Chi2:
    """chi2, chi2', chi2'' and F at PWV ``w`` [mm], closed form (eqs. 14, 15)."""
    value = slope = curvature = fisher = 0.0
    for o in range(x.size):
        (t_s, d_s, e_s), (t_i, d_i, e_i) = (
            _transmission_moments(opacity, x[o], w, b, c)
            for b, c in ((opacity.b_signal, opacity.c_signal), (opacity.b_image, opacity.c_image))
        )
        # sums over pixels of W r A_s and W r A_i, with r = y + A_s t_s + A_i t_i
        r_s = sums.ys[o] + sums.ss[o] * t_s + sums.si[o] * t_i
        r_i = sums.yi[o] + sums.si[o] * t_s + sums.ii[o] * t_i
        f = sums.ss[o] * d_s * d_s + 2.0 * sums.si[o] * d_s * d_i + sums.ii[o] * d_i * d_i
        value += float(np.sum(sums.yy[o] + sums.ys[o] * t_s + sums.yi[o] * t_i + r_s * t_s + r_i * t_i))
        slope += -2.0 * float(np.sum(r_s * d_s + r_i * d_i))
        f_sum = float(np.sum(f))
        curvature += 2.0 * (f_sum + float(np.sum(r_s * e_s + r_i * e_i)))
        fisher += f_sum
    return Chi2(max(value, 0.0), slope, curvature, fisher)


def _transmission_moments(opacity: Opacity, x: float, w: float, b: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
    """Bin means of t, X b t and X^2 b^2 t of one band: S' = A_s d_s + A_i d_i and S'' = -(A_s e_s + A_i e_i)."""
    t = np.exp(-x * (b * w + c))
    d = x * b * t
    return opacity.mean(t), opacity.mean(d), opacity.mean(x * b * d)


def residuals(observed: Floats, model: SkyModel, opacity: Opacity, x: Floats, w: float) -> Floats:
    """S_H,obs - S_H of one pixel at PWV ``w`` ``[O, C]``, K."""
    t_s, t_i = (
        np.array([opacity.mean(np.exp(-airmass_o * (b * w + c))) for airmass_o in x])
        for b, c in ((opacity.b_signal, opacity.c_signal), (opacity.b_image, opacity.c_image))
    )
    return np.asarray(observed - (model.k0 - model.a_signal * t_s - model.a_image * t_i))
