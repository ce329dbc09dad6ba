"""The sums over pixels from which chi2 of the sky signal follows at any water vapour (physics, section 4.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.physics.sky import Sky, SkyModel

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SkyData:
    """Data of one pixel: S_H,obs ``[O, C]`` in K, what is left out of the fit, the model, and the weights (None: 1)."""

    observed: Floats
    bad: NDArray[np.bool_]
    model: SkyModel
    weights: Floats | None = None


@dataclass(frozen=True)
class SkySums:
    """Weighted sums over pixels that make chi2 of eq. (14) at any PWV, exactly and for any gains; each ``[O, C]``.

    With y = S_obs - K0 the residual is r = y + A_s q_s + A_i q_i, so that chi2 is quadratic in q:
    chi2 = sum_oc [ yy + 2 ys q_s + 2 yi q_i + ss q_s^2 + 2 si q_s q_i + ii q_i^2 ]
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
        return self.part(slice(index, index + 1))

    def part(self, offs: slice) -> SkySums:
        """The sums of some OFFs."""
        return SkySums(*(getattr(self, name)[offs] for name in self.__dataclass_fields__))

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


def chi2_grid(sums: SkySums, sky: Sky, x: Floats, grid: Floats) -> Floats:
    """chi2 of every grid point and OFF, ``[grid, O]``; sum over OFFs for the joint fit.

    ``x`` is the airmass of each OFF ``[O]``, ``grid`` the PWV values [mm]. In every channel chi2 is a sum of two squares of
    (1, q_s, q_i) and a constant (Cholesky); where the gains of all pixels are the same the second is 0 and left out.
    """
    chi2 = np.zeros((grid.size, x.size))
    n = sums.yy.shape[1]
    width = min(n, GRID_CHANNELS)
    step = max(1, GRID_SAMPLES // width)
    for c in range(0, n, width):
        window = slice(c, c + width)
        each_off = zip(*(sky.on_grid(band, grid, window, x) for band in sky.bands), strict=True)
        for o, of_bands in enumerate(each_off):
            squares, constant = _squares(sums, o, window, len(sky.bands) > 1)
            chi2[:, o] += constant
            for j in range(0, grid.size, step):
                rows = slice(j, j + step)
                q = [of_rows(rows) for of_rows in of_bands]
                for m, factors in squares:
                    z = q[-1] * factors[-1]
                    z += m
                    for of_band, k in zip(q, factors[:-1], strict=False):
                        z += of_band * k
                    chi2[rows, o] += np.einsum("jc,jc->j", z, z)
    return chi2


GRID_CHANNELS: Final = 8192
GRID_SAMPLES: Final = 32 * 1024
"""Channels, and channels times grid points, worked on at a time, so that they stay in the cache."""


def _squares(sums: SkySums, o: int, window: slice, has_image: bool) -> tuple[list[tuple[Floats, list[Floats]]], float]:
    """The squares that make chi2 of an OFF in some channels, and the sum of the constants.

    Each is a constant term ``[C]`` and the factors ``[C]`` of the bands, signal before image; the second has the image alone.
    """
    ss, si, ii, ys, yi = (v[o, window] for v in (sums.ss, sums.si, sums.ii, sums.ys, sums.yi))
    root = np.sqrt(ss)
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0.0)
    m_1, l_21 = ys * inverse, si * inverse
    constant = sums.yy[o, window] - m_1 * m_1
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


def chi2_at(sums: SkySums, sky: Sky, x: Floats, w: float) -> Chi2:
    """chi2, chi2', chi2'' and F at PWV ``w`` [mm], closed form (eqs. 14, 15)."""
    value = slope = curvature = fisher = 0.0
    for o in range(x.size):
        of_bands = [band.moments(w, float(x[o])) for band in sky.bands]
        (q_s, q_i), (d_s, d_i), (e_s, e_i) = (_both(sky, values) for values in zip(*of_bands, strict=True))
        r_s, r_i = _residual_sums(sums, o, q_s, q_i)
        value += _value(sums, o, q_s, q_i, r_s, r_i)
        slope += 2.0 * float(np.sum(r_s * d_s + r_i * d_i))
        f_sum = float(np.sum(sums.ss[o] * d_s * d_s + 2.0 * sums.si[o] * d_s * d_i + sums.ii[o] * d_i * d_i))
        curvature += 2.0 * (f_sum + float(np.sum(r_s * e_s + r_i * e_i)))
        fisher += f_sum
    return Chi2(max(value, 0.0), slope, curvature, fisher)


@dataclass(frozen=True)
class NormalEquations:
    """chi2, half its gradient and F ``[2, 2]`` = sum W S'S' for w [mm] and a common factor of the dry opacity."""

    value: float
    gradient: Floats
    fisher: Floats


def normal_equations(sums: SkySums, sky: Sky, x: Floats, w: float) -> NormalEquations:
    """The Gauss-Newton equations of water vapour and dry opacity together, at PWV ``w`` [mm] and factor 1."""
    value, gradient, fisher = 0.0, np.zeros(2), np.zeros((2, 2))
    for o in range(x.size):
        of_bands = [band.gradient(w, float(x[o])) for band in sky.bands]
        (q_s, q_i), *slopes = (_both(sky, values) for values in zip(*of_bands, strict=True))
        r_s, r_i = _residual_sums(sums, o, q_s, q_i)
        value += _value(sums, o, q_s, q_i, r_s, r_i)
        for j, (d_s, d_i) in enumerate(slopes):
            gradient[j] += float(np.sum(r_s * d_s + r_i * d_i))
            along = (sums.ss[o] * d_s + sums.si[o] * d_i, sums.si[o] * d_s + sums.ii[o] * d_i)
            for k, (e_s, e_i) in enumerate(slopes):
                fisher[j, k] += float(np.sum(along[0] * e_s + along[1] * e_i))
    return NormalEquations(max(value, 0.0), gradient, fisher)


def _both(sky: Sky, values: tuple[Floats, ...]) -> tuple[Floats, Floats]:
    """Bin means in signal and image band; 0 where there is no image band."""
    means = [sky.mean(v) for v in values]
    return means[0], means[1] if len(means) > 1 else np.zeros_like(means[0])


def _residual_sums(sums: SkySums, o: int, q_s: Floats, q_i: Floats) -> tuple[Floats, Floats]:
    """Sums over pixels of W r A_s and W r A_i, with r = y + A_s q_s + A_i q_i."""
    return sums.ys[o] + sums.ss[o] * q_s + sums.si[o] * q_i, sums.yi[o] + sums.si[o] * q_s + sums.ii[o] * q_i


def _value(sums: SkySums, o: int, q_s: Floats, q_i: Floats, r_s: Floats, r_i: Floats) -> float:
    return float(np.sum(sums.yy[o] + sums.ys[o] * q_s + sums.yi[o] * q_i + r_s * q_s + r_i * q_i))
