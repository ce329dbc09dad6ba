"""What the loads say of a pixel in four numbers: means over the inner band are formed first, then ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.physics.calibration import factor, system_temperature
from calib_gpu.records import LoadCalibration, LoadSet, Receiver

INNER: Final = 0.8
"""Share of the band, around its middle, for numbers that stand for a whole pixel."""


@dataclass(frozen=True)
class LoadSummary:
    """Y factor, gain (counts/K), median T_rec,DSB (K, Planck), and T_sys of the SKY subscans (K, None without any)."""

    y: float
    gain: float
    trec: float
    t_sys_sky: float | None


def inner_band(bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Good channels in the inner 80 % of the band ``[C]``."""
    edge = round(bad.size * (1.0 - INNER) / 2.0)
    inner = np.zeros(bad.size, bool)
    inner[edge : bad.size - edge] = True
    return np.asarray(inner & ~bad)


def summarise(loads: LoadSet, cal: LoadCalibration, rx: Receiver, r: int, a: int) -> LoadSummary:
    """Summary of one pixel, from the inner band; NaN if no channel is good."""
    inner = inner_band(cal.bad[:, r, a])

    def mean(values: Any) -> NDArray[np.float64]:
        return (
            np.mean(np.broadcast_to(values, inner.shape)[inner], keepdims=True) if inner.any() else np.array([np.nan])
        )

    hot, cold, zero, gamma = (
        mean(v) for v in (cal.hot[:, r, a], cal.cold[:, r, a], cal.zero_of(r, a), cal.gamma[:, r, a])
    )
    contrast = gamma * mean(rx.gains.pixel(r, a)[0]) * rx.eta_f
    sky = None
    if loads.sky is not None:
        sky = float(system_temperature(mean(loads.sky[:, r, a]), zero, factor(gamma, hot, cold))[0])
    trec = float(np.median(cal.trec[inner, r, a])) if inner.any() else float("nan")
    return LoadSummary(float(((hot - zero) / (cold - zero))[0]), float(((hot - cold) / contrast)[0]), trec, sky)
