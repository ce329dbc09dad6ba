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
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SERIES_BELOW: Final = 0.5
_SERIES_ABOVE: Final = -0.25
_CENTRE: Final = 0.25
_TERMS: Final = 13
_BLOCK: Final = 4096


def opacity_moments(y: Floats, n: int) -> Floats:
    """I_0 to I_(n-1) of the slant opacity ``y`` (any shape): ``[n, ...]``, to 1e-12 for n <= 5.

    By the recurrence I_(n+1) = ((n+1) I_n - exp(-y)) / y, which loses digits at small y: there by Taylor series.
    """
    y = np.asarray(y, dtype=np.float64)
    small = y < _SERIES_BELOW
    if np.all(small) and np.all(y > _SERIES_ABOVE):
        return (_taylor(n) @ _powers(y.ravel())).reshape(n, *y.shape)
    safe = np.where(small, _SERIES_BELOW, y)
    out = np.empty((n, *y.shape))
    gone = -np.expm1(-safe)
    decay = 1.0 - gone
    np.divide(gone, safe, out=out[0])
    for k in range(1, n):
        np.multiply(out[k - 1], k, out=out[k])
        out[k] -= decay
        out[k] /= safe
    if np.any(small):
        # dry coefficients may be slightly negative; further below zero there is no opacity
        out[:, small] = _taylor(n) @ _powers(np.maximum(y[small], _SERIES_ABOVE))
    return out


@cache
def _taylor(n: int) -> Floats:
    """Coefficients ``[n, K]`` of I_0 to I_(n-1) in powers of y - 1/4, from d^k I_m / dy^k = (-1)^k I_(m+k)."""
    there = [sum((-_CENTRE) ** j / (math.factorial(j) * (m + 1 + j)) for j in range(20)) for m in range(n + _TERMS)]
    return np.array([[(-1.0) ** k * there[m + k] / math.factorial(k) for k in range(_TERMS)] for m in range(n)])


def _powers(y: Floats) -> Floats:
    """Powers 0 to K - 1 of y - 1/4 ``[K, C]``."""
    out = np.empty((_TERMS, y.size))
    out[0] = 1.0
    np.subtract(y, _CENTRE, out=out[1])
    known = 2
    while known < _TERMS:
        more = min(known, _TERMS - known)
        np.multiply(out[known - 1] * out[1], out[:more], out=out[known : known + more])
        known += more
    return out


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
        out = np.empty(b.size)
        for part, p, moments in self._blocks(b, c, pwv, x, 0):
            out[part] = x * _sum(p, moments)
        return out

    def at(self, b: Floats, c: Floats, pwv: float, x: float) -> tuple[Floats, Floats, Floats]:
        """E, dE/dw and d2E/dw2 ``[C]`` at a PWV [mm] and an airmass: K, K/mm, K/mm^2."""
        out = np.empty((3, b.size))
        for part, p, moments in self._blocks(b, c, pwv, x, 2):
            wet, xb = self.wet[:, part], x * b[part]
            out[0, part] = x * _sum(p, moments)
            out[1, part] = x * (_sum(wet, moments) - xb * _sum(p, moments[1:]))
            out[2, part] = x * xb * (xb * _sum(p, moments[2:]) - 2.0 * _sum(wet, moments[1:]))
        return out[0], out[1], out[2]

    def gradient(self, b: Floats, c: Floats, pwv: float, x: float) -> tuple[Floats, Floats, Floats]:
        """E, dE/dw, and the derivative with respect to a factor of the dry opacity, at 1 ``[C]``: K, K/mm, K."""
        out = np.empty((3, b.size))
        for part, p, moments in self._blocks(b, c, pwv, x, 1):
            deeper = _sum(p, moments[1:])
            out[0, part] = x * _sum(p, moments)
            out[1, part] = x * (_sum(self.wet[:, part], moments) - x * b[part] * deeper)
            out[2, part] = x * (_sum(self.dry[:, part], moments) - x * c[part] * deeper)
        return out[0], out[1], out[2]

    def _blocks(self, b: Floats, c: Floats, pwv: float, x: float, more: int) -> Iterator[tuple[slice, Floats, Floats]]:
        """Channels that stay in the cache, their source coefficients ``[N, C]`` [K Np], and N + ``more`` moments."""
        for start in range(0, b.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            y = x * (b[part] * pwv + c[part])
            yield part, self.wet[:, part] * pwv + self.dry[:, part], opacity_moments(y, self.wet.shape[0] + more)


def _sum(coefficients: Floats, moments: Floats) -> Floats:
    """Sum over n of coefficients times as many moments ``[C]``."""
    total = coefficients[0] * moments[0]
    for a, moment in zip(coefficients[1:], moments[1:], strict=False):
        total += a * moment
    return np.asarray(total)
