"""From counts to T_A* and T_sys: the one factor (physics, sections 3.1, 3.3 and 6.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SampleRule:
    """What makes a count missing, dead or saturated.

    ``fill`` is the value of a missing integer sample (None: no such value; float data use NaN);
    counts <= 0 are dead unless ``positive`` is false (zero levels), counts >= ``saturation`` saturated (None: no limit).
    """

    fill: int | None
    saturation: float | None
    positive: bool = True

    def missing(self, counts: NDArray[Any], n_dump: int) -> NDArray[np.bool_]:
        """Missing samples; the last axis is the dump, those from ``n_dump`` on are padding."""
        if counts.dtype.kind == "f":
            missing = np.isnan(counts)
        elif self.fill is not None:
            missing = counts == self.fill
        else:
            missing = np.zeros(counts.shape, dtype=bool)
        missing[..., n_dump:] = True
        return np.asarray(missing)

    def invalid(self, counts: NDArray[Any]) -> NDArray[np.bool_]:
        """Dead (<= 0) or saturated samples, missing ones among them or not; false for NaN and Inf."""
        bad = counts <= 0 if self.positive else np.zeros(counts.shape, dtype=bool)
        if self.saturation is not None:
            bad |= counts >= self.saturation
        if counts.dtype.kind == "f":
            bad &= np.isfinite(counts)
        return np.asarray(bad)

    def valid(self, counts: NDArray[Any], n_dump: int) -> NDArray[np.bool_]:
        """Samples that may enter a mean: present, finite, > 0 and not saturated."""
        good = ~(self.missing(counts, n_dump) | self.invalid(counts))
        if counts.dtype.kind == "f":
            good &= np.isfinite(counts)
        return np.asarray(good)

    def dumps_present(self, counts: NDArray[Any]) -> int:
        """Dumps of a pixel ``[C, D]`` that hold any sample; the middle channel alone tells where it has them all."""
        middle = counts.shape[0] // 2
        if not self.missing(counts[middle : middle + 1], counts.shape[1]).any():
            return int(counts.shape[1])
        return int(np.count_nonzero(~self.missing(counts, counts.shape[1]).all(axis=0)))

    def all_valid(self, counts: NDArray[Any], n_dump: int) -> bool:
        """True if every sample is valid: one pass, or two where there is an upper limit, without a temporary."""
        if n_dump < counts.shape[-1] or not counts.size:
            return False
        low = counts.min()  # NaN compares false
        if not low > (0 if self.positive else -np.inf):
            return False
        is_float = counts.dtype.kind == "f"
        has_fill = not is_float and self.fill is not None and low <= self.fill
        if not (is_float or has_fill or self.saturation is not None):
            return True
        high = counts.max()
        below = bool(high < np.inf) and (self.saturation is None or bool(high < self.saturation))
        return below and not (has_fill and self.fill is not None and self.fill <= high)


def factor(gamma: Floats, hot: Floats, cold: Floats) -> Floats:
    """Gamma / (C_h - C_c) [K/count], eq. (7) without transmission."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return gamma / (hot - cold)


def system_temperature(ref: Floats, zero: Floats | float, through_sky: Floats) -> Floats:
    """T_sys on the T_A* scale at the reference position [K], eq. (9): (C_r - Z) times the factor over t_s [K/count]."""
    return (ref - zero) * through_sky


def radiometer_quantum(t_sys: Floats, bandwidth: float, t_dump: float, bits: int) -> Floats:
    """Largest power of two that is at most 2^-bits of the radiometer noise T_sys / sqrt(B t) of a dump, K.

    Parameters
    ----------
    t_sys
        ``[..., C]`` K; the quietest channel with T_sys > 0 decides.
    bandwidth, t_dump
        Noise bandwidth of a channel (Hz) and integration time of a dump (s).

    Returns
    -------
    ``[...]``, 0 where there is no such channel or time. Rounding to q adds a variance of q^2/12: with 6 bits at most
    2.0e-5 of that of the noise.
    """
    least = np.min(np.where(t_sys > 0.0, t_sys, np.inf), axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        sigma = least / np.sqrt(bandwidth * t_dump)
    usable = np.isfinite(sigma) & (sigma > 0.0)
    exponent = np.frexp(np.where(usable, sigma, 1.0))[1]  # sigma = m 2^e with 1/2 <= m < 1
    return np.where(usable, np.ldexp(0.5, exponent - bits), 0.0)


def combine(first: Floats, second: Floats, weights: tuple[float, float]) -> Floats:
    """Reference from two OFF spectra; a term of weight 0 is not read, a NaN term of weight > 0 makes NaN."""
    if weights[1] == 0.0:
        return first
    if weights[0] == 0.0:
        return second
    return weights[0] * first + weights[1] * second
