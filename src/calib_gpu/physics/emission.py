"""Emission of a layered atmosphere at any water vapour and airmass, from a few coefficients (docs/atmosphere.md).

In the share s of the zenith opacity below a layer (0 at the telescope, 1 at the top) a line of sight of slant opacity
y = X tau receives E = integral of J(s) y exp(-y s) ds. With J(s) = sum_n a_n s^n that is E = y sum_n a_n I_n(y),
I_n(y) = integral_0^1 s^n exp(-y s) ds, for every airmass. The products tau a_n are linear in the water vapour w, as tau is:
tau a_n = u_n w + v_n, a wet and a dry part. Hence

    E(w, X) = X sum_n (u_n w + v_n) I_n(y),  y = X (b w + c)                                                      (13a)

and, since dI_n/dy = -I_(n+1), its derivatives. One term (n = 0) is a slab of one temperature: E = a_0 (1 - exp(-y)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SERIES_BELOW: Final = 1.0
_SERIES_TERMS: Final = 17


def opacity_moments(y: Floats, n: int) -> Floats:
    """I_0 to I_(n-1) of the slant opacity ``y`` (any shape): ``[n, ...]``, to 1e-13.

    Upwards by I_(n+1) = ((n+1) I_n - exp(-y)) / y, which loses digits at small y: there downwards, from a series in y.
    """
    y = np.asarray(y, dtype=np.float64)
    small = y < _SERIES_BELOW
    if np.all(small):
        return _moments_downwards(y, n)
    safe = np.where(small, _SERIES_BELOW, y)
    decay = np.exp(-safe)
    out = np.empty((n, *y.shape))
    out[0] = -np.expm1(-safe) / safe
    for k in range(1, n):
        out[k] = (k * out[k - 1] - decay) / safe
    if np.any(small):
        out[:, small] = _moments_downwards(y[small], n)
    return out


def _moments_downwards(y: Floats, n: int) -> Floats:
    """The same for y < 1: I_(n-1) by its series, then I_k = (y I_(k+1) + exp(-y)) / (k+1)."""
    decay, out = np.exp(-y), np.empty((n, *y.shape))
    top = np.full_like(y, _series_coefficient(n, _SERIES_TERMS))
    for j in range(_SERIES_TERMS - 1, -1, -1):
        top *= y
        top += _series_coefficient(n, j)
    out[n - 1] = top
    for k in range(n - 2, -1, -1):
        np.multiply(out[k + 1], y, out=out[k])
        out[k] += decay
        out[k] /= k + 1
    return out


def _series_coefficient(n: int, j: int) -> float:
    """Of y^j in I_(n-1)(y)."""
    return (-1.0) ** j / (math.factorial(j) * (n + j))


def source_polynomial(j_eff: Floats, y: Floats) -> Floats:
    """Coefficients a_n ``[N, F]`` of J(s), such that E = J_eff (1 - exp(-y)) at N airmasses.

    Parameters
    ----------
    j_eff
        Effective Rayleigh-Jeans temperature, K, at each airmass ``[N, F]``.
    y
        Slant opacity at each airmass ``[N, F]``, Np.
    """
    n = y.shape[0]
    if n == 1:
        return j_eff.copy()
    moments = opacity_moments(y, n)  # [n, airmass, F]
    matrix = np.moveaxis(moments[1:] / moments[0], (0, 1, 2), (2, 1, 0))  # [F, airmass, n - 1]
    matrix = np.concatenate([np.ones((*matrix.shape[:2], 1)), matrix], axis=2)
    return np.ascontiguousarray(np.linalg.solve(matrix, j_eff.T[..., None])[..., 0].T)


@dataclass(frozen=True)
class Emission:
    """Coefficients of (13a) on the channels of one band: ``wet`` u_n in K Np/mm and ``dry`` v_n in K Np, ``[N, C]``."""

    wet: Floats
    dry: Floats

    @classmethod
    def of(cls, j_eff: Floats, b: Floats, c: Floats, pwv: Floats, airmass: Floats) -> Emission:
        """From effective temperatures on the Rayleigh-Jeans scale at one or two PWVs and N airmasses.

        Parameters
        ----------
        j_eff
            ``[W, N, F]`` K.
        b, c
            ``[F]`` opacity coefficients, Np/mm and Np.
        pwv
            ``[W]`` mm, W = 1 or 2; not used with one.
        airmass
            ``[N]``; not used with one.
        """
        if j_eff.shape[:2] == (1, 1):  # one temperature: J(s) is constant
            return cls(b * j_eff[0], c * j_eff[0])
        taus = [b * w + c for w in pwv]
        parts = [source_polynomial(j, airmass[:, None] * tau) for j, tau in zip(j_eff, taus, strict=True)]
        if len(parts) == 1:
            return cls(b * parts[0], c * parts[0])
        low, high = (tau * part for tau, part in zip(taus, parts, strict=True))
        wet = (high - low) / (pwv[1] - pwv[0])
        return cls(wet, low - wet * pwv[0])

    def part(self, channels: slice) -> Emission:
        """That of some channels."""
        return Emission(self.wet[:, channels], self.dry[:, channels])

    def scaled(self, dry: Floats | float = 1.0, temperature: Floats | float = 1.0) -> Emission:
        """With the dry opacity, or the brightness of all layers ``[C]``, multiplied."""
        return Emission(self.wet * temperature, self.dry * (dry * temperature))

    def value(self, b: Floats, c: Floats, pwv: float, x: float) -> Floats:
        """E alone ``[C]``, K: half the work of :meth:`at`."""
        moments = opacity_moments(x * (b * pwv + c), self.wet.shape[0])
        return np.asarray(x * _sum(self._source(pwv), moments))

    def at(self, b: Floats, c: Floats, pwv: float, x: float) -> tuple[Floats, Floats, Floats]:
        """E, dE/dw and d2E/dw2 ``[C]`` at a PWV [mm] and an airmass: K, K/mm, K/mm^2."""
        n = self.wet.shape[0]
        moments = opacity_moments(x * (b * pwv + c), n + 2)
        p, xb = self._source(pwv), x * b
        wet_1 = _sum(self.wet, moments[1:])
        slope = x * (_sum(self.wet, moments) - xb * _sum(p, moments[1:]))
        curvature = x * xb * (xb * _sum(p, moments[2:]) - 2.0 * wet_1)
        return x * _sum(p, moments), slope, curvature

    def dry_slope(self, b: Floats, c: Floats, pwv: float, x: float) -> Floats:
        """Derivative of E ``[C]`` with respect to a factor of the dry opacity, at 1: K."""
        moments = opacity_moments(x * (b * pwv + c), self.wet.shape[0] + 1)
        return np.asarray(x * (_sum(self.dry, moments) - x * c * _sum(self._source(pwv), moments[1:])))

    def _source(self, pwv: float) -> Floats:
        """Coefficients of the source ``[N, C]`` at a PWV, K Np."""
        return np.asarray(self.wet * pwv + self.dry)


def _sum(coefficients: Floats, moments: Floats) -> Floats:
    """Sum over n of coefficients times as many moments ``[C]``."""
    total = coefficients[0] * moments[0]
    for a, moment in zip(coefficients[1:], moments[1:], strict=False):
        total += a * moment
    return np.asarray(total)
