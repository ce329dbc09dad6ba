"""How fast the local standard of rest moves against a telescope on the Earth (physics, section 1.4)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError, MissingValue

SOLAR_MOTION: Final = (290.0, -17_317.3, 10_001.4)
"""Velocity of the Sun in the kinematic LSR: 20 km/s towards 18h, +30 deg of B1900, turned to ICRS axes [m/s]."""

TT_MINUS_UTC: Final = 69.184 / 86400.0
"""Days; that of 2017 and after. A minute's error changes a velocity by 0.4 m/s, so that no table of leap seconds is needed."""

AU_PER_DAY: Final = 149_597_870_700.0 / 86_400.0
"""m/s."""

MJD_0: Final = 2_400_000.5
MJD_RANGE: Final = (15_020.0, 88_069.0)
"""1900 to 2100, the range of the series for the Earth's motion."""


def _erfa() -> Any:
    try:
        import erfa
    except ImportError:
        raise ConfigError(
            "pyerfa computes the velocity of the observer, and is not here", array="frequency_frame", value="lsrk",
            fix="pip install 'calib-gpu[frame]', or give L0 the attribute frame_velocity_m_s",
        ) from None  # fmt: skip
    return erfa


def unit_vector(lon: float, lat: float, system: str) -> NDArray[np.float64]:
    """Direction [3] on the axes of ICRS; longitude and latitude in deg of ``icrs`` or ``galactic``."""
    alpha, delta = np.radians(lon), np.radians(lat)
    if system == "galactic":
        alpha, delta = _erfa().g2icrs(alpha, delta)
    return np.array([np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)])


def observer_velocity(mjd: float, site: tuple[float, float, float]) -> NDArray[np.float64]:
    """Velocity [3] of a telescope against the barycentre of the solar system, on the axes of ICRS, m/s.

    The Earth's motion (IAU SOFA's series epv00, good to 0.02 m/s) and its rotation, with UT1 = UTC and without polar motion:
    both together are wrong by less than 0.1 m/s. Nothing is looked up, so that no file and no network is needed.

    Parameters
    ----------
    mjd
        Time, MJD (UTC), 1900 to 2100.
    site
        Longitude (east) and latitude in deg, geodetic (WGS84), and height in m. It is taken to be at rest on the ground: an
        aircraft's own 0.25 km/s is left out.
    """
    if not MJD_RANGE[0] <= mjd <= MJD_RANGE[1]:
        raise MissingValue("not a date", array="source/mjd", value=mjd, rule="MJD (UTC), of 1900 to 2100")
    erfa, tt = _erfa(), mjd + TT_MINUS_UTC
    _, earth = erfa.epv00(MJD_0, tt)
    lon, lat, height = np.radians(site[0]), np.radians(site[1]), site[2]
    spin = erfa.pvtob(lon, lat, height, 0.0, 0.0, 0.0, erfa.era00(MJD_0, mjd))
    to_celestial = erfa.c2i06a(MJD_0, tt).T
    return np.asarray(earth["v"] * AU_PER_DAY + to_celestial @ spin["v"])


def lsr_velocity(mjd: float, direction: NDArray[np.float64], site: tuple[float, float, float]) -> float:
    """Radial velocity of the kinematic LSR against a telescope, m/s, positive where it recedes.

    Something at rest in the LSR is received at nu (1 - v/c): :func:`calib_gpu.physics.frequency.to_topocentric`. Classical, as
    that equation is; relativity adds less than 10 m/s. Parameters as for the functions above.
    """
    return -float(direction @ (observer_velocity(mjd, site) + np.array(SOLAR_MOTION)))
