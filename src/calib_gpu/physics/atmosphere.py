"""Opacity, airmass and transmission (physics, sections 4.1 and 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calib_gpu.errors import BadElevation

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
    """

    b_signal: Floats
    c_signal: Floats
    b_image: Floats
    c_image: Floats
    has_image: bool = True
    clamped: bool = False

    def tau(self, pwv: float, dry_scale: float = 1.0) -> tuple[Floats, Floats]:
        """Zenith opacity of signal and image band [Np]; the image is NaN where it was not looked up."""
        signal = self.b_signal * pwv + dry_scale * self.c_signal
        image = self.b_image * pwv + dry_scale * self.c_image
        return signal, image if self.has_image else np.full_like(image, np.nan)


def bin_starts(n_channel: int, n_bins: int) -> NDArray[np.intp]:
    """First channels of ``n_bins`` bins of equal channel number (to one channel)."""
    return np.arange(n_bins, dtype=np.intp) * n_channel // n_bins


def bin_sums(values: Floats, starts: NDArray[np.intp]) -> Floats:
    """Sums over the channels (last axis) of bins that begin at ``starts``."""
    width, rest = divmod(values.shape[-1], starts.size)
    if rest == 0 and np.array_equal(starts, np.arange(starts.size) * width):  # all of one width: twice as fast
        return np.asarray(np.einsum("...bc->...b", values.reshape(*values.shape[:-1], starts.size, width)))
    return np.asarray(np.add.reduceat(values, starts, axis=-1))


def bin_means(values: Floats, starts: NDArray[np.intp]) -> Floats:
    """Means over the channels (last axis) of bins that begin at ``starts``."""
    return np.asarray(bin_sums(values, starts) / np.diff(starts, append=values.shape[-1]))
