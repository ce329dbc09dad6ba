"""Frequency axes of both sidebands (physics, section 1.3 and 1.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError, FrequencyMismatch

SPEED_OF_LIGHT: Final = 299_792_458.0
"""c [m/s]."""

_SUM_TOLERANCE_HZ: Final = 1e3
_HIGHEST_GHZ: Final = 1e5


def rest_hz(rest_ghz: float, option: str) -> float:
    """A rest frequency that a user gives in GHz, in Hz; :class:`ConfigError` names ``option`` if it cannot be one."""
    if not 0.0 < rest_ghz < _HIGHEST_GHZ:
        fix = "it looks like Hz" if rest_ghz >= 1e6 else ""
        raise ConfigError("not a rest frequency", array=option, value=rest_ghz, rule="GHz, > 0 and < 100000", fix=fix)
    return 1e9 * rest_ghz


@dataclass(frozen=True)
class Frame:
    """Frame of the frequencies: topocentric, lsrk, or None where L0 does not tell (then taken as topocentric).

    ``velocity`` is that of the LSR against the telescope, m/s, positive where it recedes; None where it is not needed.
    """

    name: str | None
    velocity: float | None = None
    origin: str = ""


def frequency_axes(
    signal_0: float, image_0: float, spacing: float, ref_channel: float, n_channel: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Signal and image frequency of every channel, eq. (3).

    Parameters
    ----------
    signal_0, image_0
        Frequencies at the reference channel [Hz].
    spacing
        Channel spacing of the signal axis [Hz], may be negative; the image axis runs the other way.
    ref_channel
        Reference channel counted from 0, may be fractional.
    n_channel
        Number of channels C.

    Returns
    -------
    signal[C], image[C] in Hz; their sum is 2 nu_LO in every channel.

    Raises
    ------
    FrequencyMismatch
        A value is not finite, a frequency is not positive, the spacing is 0, or the sum is not constant to 1 kHz.
    """
    for name, value in (
        ("signal_freq", signal_0),
        ("image_freq", image_0),
        ("freq_res", spacing),
        ("ref_channel", ref_channel),
    ):
        if not np.isfinite(value):
            raise FrequencyMismatch("not a number", array=name, value=value, rule="frequencies must be finite")
    if spacing == 0.0:
        raise FrequencyMismatch("channel spacing is 0", array="freq_res", value=spacing, rule="must differ from 0")
    steps = (np.arange(n_channel, dtype=np.float64) - ref_channel) * spacing
    signal, image = signal_0 + steps, image_0 - steps
    for name, axis in (("signal_freq", signal), ("image_freq", image)):
        if axis.min() <= 0.0:
            raise FrequencyMismatch(
                "axis reaches 0 Hz or below", array=name, value=float(axis.min()), rule="must be > 0 Hz"
            )
    total = signal + image
    if np.ptp(total) > _SUM_TOLERANCE_HZ:
        raise FrequencyMismatch("signal + image is not constant", value=float(np.ptp(total)), rule="constant to 1 kHz")
    return signal, image


def to_topocentric(frequency: NDArray[np.float64], frame_velocity: float) -> NDArray[np.float64]:
    """Shift LSR frequencies [Hz] to the observer's frame: nu (1 - v/c), v [m/s] the radial velocity of the frame."""
    return frequency * (1.0 - frame_velocity / SPEED_OF_LIGHT)
