"""Positions on the sky of offsets from a centre."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def position(centre: tuple[float, float], lon_offset: ArrayLike, lat_offset: ArrayLike) -> tuple[Floats, Floats]:
    """Longitude (0 to 360) and latitude, deg, of offsets in the plane that touches the sphere at the centre.

    The gnomonic projection (TAN; Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3), in which offsets are true angles
    near the centre (physics, 6.5).

    Parameters
    ----------
    centre
        Longitude and latitude, deg.
    lon_offset, lat_offset
        Offsets towards increasing longitude and latitude, deg, any shapes that fit each other.
    """
    lon_0, lat_0 = np.radians(centre[0]), np.radians(centre[1])
    x, y = np.radians(lon_offset), np.radians(lat_offset)
    along = np.cos(lat_0) - y * np.sin(lat_0)
    lon = lon_0 + np.arctan2(x, along)
    lat = np.arctan2(np.sin(lat_0) + y * np.cos(lat_0), np.hypot(x, along))
    return np.degrees(lon) % 360.0, np.degrees(lat)


def summed_offsets(arrays: dict[str, NDArray[Any]], shape: tuple[int, int, int, int]) -> tuple[Floats, Floats]:
    """Offsets of beam and pixel, summed: longitude and latitude ``[D,R,A,S]``, deg; what is not known is 0.

    ``arrays`` holds ``otf_lon`` [D,S], ``pixel_offset_lon`` [R,A,S] and the same of ``lat``, as far as they are known.
    """
    found = []
    for axis in ("lon", "lat"):
        total = np.zeros(shape)
        if f"otf_{axis}" in arrays:
            total += arrays[f"otf_{axis}"][:, None, None, :]
        if f"pixel_offset_{axis}" in arrays:
            total += arrays[f"pixel_offset_{axis}"][None]
        found.append(total)
    return found[0], found[1]
