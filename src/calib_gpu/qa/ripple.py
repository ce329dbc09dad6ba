"""A periodic baseline in a mean spectrum: standing waves (physics, section 6.4), told apart from lines."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.physics.robust import median
from calib_gpu.qa.sample import lag_two_rms
from calib_gpu.records import Floats

RIPPLE_SHORTEST_HZ: Final = 20e6
WIDEST_LINE: Final = 1 / 16
"""Lines up to this share of the band are looked for; wider structure is baseline."""

_NOTHING: Final = (float("nan"),) * 3


def ripple(spectrum: Floats, spacing: float) -> tuple[float, float, float]:
    """Largest periodic baseline: amplitude [K], period [Hz], and amplitude over 3 sigma of white noise.

    From the Hann-windowed FFT of the mean spectrum [K] without its lines, periods from 20 MHz to half the band; all NaN
    where the band has no such period, or no two channels without a line. Noise alone gives sqrt(2 ln N) / 3, 1 to 1.5
    for N periods.
    """
    n = spectrum.size
    good = line_free(spectrum)
    if np.count_nonzero(good) < 2:
        return _NOTHING
    filled = fill_gaps(spectrum, good)
    window = np.hanning(n)
    amplitude = 2.0 * np.abs(np.fft.rfft((filled - filled.mean()) * window)) / window.sum()
    with np.errstate(divide="ignore"):
        period = n * spacing / np.arange(amplitude.size)
    inside = (period >= RIPPLE_SHORTEST_HZ) & (period <= 0.5 * n * spacing)
    if not inside.any():
        return _NOTHING
    k = int(np.flatnonzero(inside)[np.argmax(amplitude[inside])])
    noise = lag_two_rms(np.where(good, spectrum, np.nan))
    white = noise * np.sqrt(2.0 * (window**2).sum()) / window.sum()
    return float(amplitude[k]), float(period[k]), float(amplitude[k] / (3.0 * white)) if white > 0 else float("nan")


def line_free(spectrum: Floats) -> NDArray[np.bool_]:
    """Channels ``[C]`` that are numbers and in no line, its wings included.

    A line is what stands out by 5 robust sigma in a running mean over 1, then 4, 16, ... of the channels that are left;
    all channels of such a mean belong to it, and as many again on either side. A ripple widens sigma and stays in: also in
    means over its period, where little is left of it, because sigma falls no faster than that of white noise.
    """
    free, width = np.isfinite(spectrum), 1
    sigma = robust_sigma(spectrum)
    while free.any() and width <= max(1, int(WIDEST_LINE * spectrum.size)):
        high = stands_out(running_mean(np.where(free, spectrum, 0.0), free, width), sigma / np.sqrt(width))
        free = free & (window_sum(high.astype(np.float64), 3 * width) == 0.0)
        width *= 4
    return free


def stands_out(spectrum: Floats, least: float = 0.0) -> NDArray[np.bool_]:
    """Channels ``[C]`` more than 5 robust sigma from the median, sigma being at least ``least``; NaN does not stand out."""
    distance = np.abs(spectrum - _median(spectrum))
    with np.errstate(invalid="ignore"):
        return np.asarray(distance > 5.0 * max(1.4826 * _median(distance), least))


def robust_sigma(spectrum: Floats) -> float:
    """1.4826 times the median distance from the median; NaN where there is no number."""
    return 1.4826 * _median(np.abs(spectrum - _median(spectrum)))


def _median(values: Floats) -> float:
    return median(values[np.isfinite(values)])


def fill_gaps(spectrum: Floats, good: NDArray[np.bool_]) -> Floats:
    """The spectrum ``[C]`` with straight lines where it is not good, from the means of 1/64 of the band at their ends.

    A line from one noisy channel to another would look like a ripple.
    """
    channel = np.arange(spectrum.size)
    mean = running_mean(np.where(good, spectrum, 0.0), good, max(1, spectrum.size // 64))
    return np.where(good, spectrum, np.interp(channel, channel[good], mean[good]))


def running_mean(level: Floats, good: NDArray[np.bool_], width: int) -> Floats:
    """Mean of the good channels in a window ``[C]``, truncated at the edges; NaN without any. ``level`` is 0 elsewhere."""
    with np.errstate(invalid="ignore"):
        return np.asarray(window_sum(level, width) / np.rint(window_sum(good.astype(np.float64), width)))


def window_sum(values: Floats, width: int) -> Floats:
    """Sum over the ``width`` channels around each ``[C]``, one less in front where it is even."""
    n, before = values.size, (width - 1) // 2
    total = np.zeros(n + 1)
    np.cumsum(values, out=total[1:])
    inside = max(0, n + 1 - (width - before))  # channels whose window ends within the band
    out = np.empty(n)
    out[:inside], out[inside:] = total[n + 1 - inside :], total[n]
    out[before:] -= total[: max(0, n - before)]
    return out
