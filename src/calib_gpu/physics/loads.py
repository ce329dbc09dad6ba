"""Load calibration: sideband gains, load powers, gain, gamma, T_rec and bad channels (physics, sections 1.2 and 3).

All arrays are ``[C, R, A]`` or broadcast against it, float64. No formula treats R and A differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calib_gpu.errors import ConfigError
from calib_gpu.physics.radiation import half_quantum, rayleigh_jeans_temperature
from calib_gpu.physics.robust import median

Floats = NDArray[np.float64]

DEAD_PIXEL_FRACTION: Final = 0.9


@dataclass(frozen=True)
class SidebandGains:
    """Normalised sideband gains, signal + image = 1; scalars ``[]``, ``[R, A]`` or ``[C, R, A]``."""

    signal: Floats
    image: Floats

    @property
    def single_sideband(self) -> bool:
        """True where no pixel receives anything from the image band."""
        return not np.any(self.image)

    def pixel(self, r: int, a: int) -> tuple[Floats, Floats]:
        """Gains of one pixel, scalar or ``[C]``."""
        if self.signal.ndim == 0:
            return self.signal, self.image
        return self.signal[..., r, a], self.image[..., r, a]


def gains_from_weights(w_signal: ArrayLike, w_image: ArrayLike) -> SidebandGains:
    """Normalise gain weights (notation c): g_s = w_s / (w_s + w_i); the common factor drops out."""
    w_s, w_i = np.broadcast_arrays(np.asarray(w_signal, np.float64), np.asarray(w_image, np.float64))
    if not (np.all(np.isfinite(w_s)) and np.all(w_s > 0.0)):
        raise ConfigError("not a gain", array="gain_sig", value=_worst(w_s), rule="finite and > 0 in every pixel")
    if not (np.all(np.isfinite(w_i)) and np.all(w_i >= 0.0)):
        raise ConfigError("not a gain", array="gain_img", value=_worst(w_i), rule="finite and >= 0 in every pixel")
    g_s = w_s / (w_s + w_i)
    return SidebandGains(g_s, w_i / (w_s + w_i))


def gains_from_signal(g_signal: ArrayLike) -> SidebandGains:
    """Normalised signal gain g_s in (0, 1] (notation a)."""
    g = np.asarray(g_signal, np.float64)
    return gains_from_weights(g, 1.0 - g)


def gains_from_image_ratio(ratio: ArrayLike) -> SidebandGains:
    """Image-to-signal ratio R = g_i / g_s, 1 for balanced bands (notation b)."""
    r = np.asarray(ratio, np.float64)
    return gains_from_weights(np.ones_like(r), r)


def _worst(values: Floats) -> float:
    bad = values[~np.isfinite(values)] if not np.all(np.isfinite(values)) else values
    return float(np.min(bad))


@dataclass(frozen=True)
class LoadPowers:
    """Power that the loads send into the receiver, per band, eqs. (2a, 2b); ``[C]``, K on the J scale."""

    hot_signal: Floats
    hot_image: Floats
    cold_signal: Floats
    cold_image: Floats

    def interpolate(self, other: LoadPowers, weight: float) -> LoadPowers:
        """(1 - weight) of this and weight of the other."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return LoadPowers(*((1.0 - weight) * a + weight * b for a, b in pairs))


def load_powers(
    signal: Floats, image: Floats, t_hot: float, t_cold: float, eta_h: float = 1.0, eta_c: float = 1.0
) -> LoadPowers:
    """Powers of both loads in both bands, eqs. (2a, 2b).

    Parameters
    ----------
    signal, image
        Frequency axes ``[C]``, Hz.
    t_hot, t_cold
        Physical load temperatures, K.
    eta_h, eta_c
        Couplings to the loads; their sum must exceed 1.
    """
    if not eta_h + eta_c > 1.0:
        raise ConfigError(
            "load couplings leave no contrast", array="eta_h + eta_c", value=eta_h + eta_c, rule="must be > 1"
        )
    bands = []
    for nu in (signal, image):
        j_h, j_c = rayleigh_jeans_temperature(nu, t_hot), rayleigh_jeans_temperature(nu, t_cold)
        bands.append((eta_h * j_h + (1.0 - eta_h) * j_c, eta_c * j_c + (1.0 - eta_c) * j_h))
    (hot_s, cold_s), (hot_i, cold_i) = bands
    return LoadPowers(hot_s, hot_i, cold_s, cold_i)


def gamma(powers: LoadPowers, g_signal: Floats, g_image: Floats, eta_f: float) -> Floats:
    """Load temperature difference on the T_A* scale, eq. (6): DT' / (g_s eta_f) [K], for one pixel ``[C]``."""
    return load_contrast(powers, g_signal, g_image) / (g_signal * eta_f)


def load_contrast(powers: LoadPowers, g_signal: Floats, g_image: Floats) -> Floats:
    """DT' = T'_h - T'_c, sideband-weighted, for one pixel ``[C]``, K."""
    return g_signal * (powers.hot_signal - powers.cold_signal) + g_image * (powers.hot_image - powers.cold_image)


def receiver_temperature(
    hot: Floats, cold: Floats, zero: ArrayLike, powers: LoadPowers, g_signal: Floats, g_image: Floats
) -> Floats:
    """Double-sideband receiver noise temperature, eq. (8), for one pixel ``[C]``, K (Planck convention)."""
    t_hot = g_signal * powers.hot_signal + g_image * powers.hot_image
    t_cold = g_signal * powers.cold_signal + g_image * powers.cold_image
    z = np.asarray(zero, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((t_hot * (cold - z) - t_cold * (hot - z)) / (hot - cold))


def callen_welton_shift(signal: Floats, image: Floats, g_signal: Floats, g_image: Floats) -> Floats:
    """What the Callen-Welton convention subtracts from T_rec,DSB [K]: the sideband-weighted half quantum."""
    return g_signal * half_quantum(signal) + g_image * half_quantum(image)


def running_mean(values: Floats, width: int) -> Floats:
    """Running mean over the last axis of odd ``width``, truncated at the edges, leaving out NaN (NaN if none is left)."""
    half = width // 2
    valid = ~np.isnan(values)
    sums = np.concatenate(([0.0], np.cumsum(np.where(valid, values, 0.0))))
    counts = np.concatenate(([0], np.cumsum(valid)))
    n = values.shape[-1]
    first, last = np.maximum(np.arange(n) - half, 0), np.minimum(np.arange(n) + half + 1, n)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((sums[last] - sums[first]) / (counts[last] - counts[first]))


def bad_channels(
    hot: Floats,
    cold: Floats,
    trec_ssb: Floats,
    *,
    clip_counts: float,
    clip_trec: float,
    smooth_width: int,
    edge_fraction: float,
    saturation: float | None,
) -> NDArray[np.bool_]:
    """Rules 1 to 6 of section 3.5 for one pixel ``[C]``; a pixel with more than 90 % bad channels is bad as a whole.

    ``trec_ssb`` is T_rec,SSB in the Planck convention [K] whatever is written to L1.
    """
    difference = hot - cold
    bad = ~(np.isfinite(hot) & np.isfinite(cold) & np.isfinite(difference))
    with np.errstate(invalid="ignore"):
        bad |= (hot <= 0.0) | (cold <= 0.0)
        if saturation is not None:
            bad |= (hot >= saturation) | (cold >= saturation)
        bad |= hot <= cold
        smooth = running_mean(np.where(np.isfinite(difference), difference, np.nan), smooth_width)
        if not np.all(np.isnan(smooth)):
            bad |= difference < clip_counts * np.nanmax(smooth)
        bad |= ~(trec_ssb > 0.0)
        if not bad.all():
            bad |= trec_ssb > clip_trec * median(trec_ssb[~bad])
    edge = int(edge_fraction * bad.size)
    if edge:
        bad[:edge] = bad[-edge:] = True
    return whole_if_mostly_bad(bad)


def whole_if_mostly_bad(bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """All channels of a pixel ``[C]`` are bad if more than 90 % are."""
    return np.ones_like(bad) if np.count_nonzero(bad) > DEAD_PIXEL_FRACTION * bad.size else bad
