"""Velocities of frequencies, in the conventions of radio, optical and relativistic (Greisen et al. 2006, A&A 446, 747)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from calib_gpu.errors import ConfigError
from calib_gpu.physics.frequency import SPEED_OF_LIGHT

VELOCITIES: Final[dict[str, Callable[[Any, float], Any]]] = {
    "radio": lambda nu, rest: SPEED_OF_LIGHT * (1.0 - nu / rest),
    "optical": lambda nu, rest: SPEED_OF_LIGHT * (rest / nu - 1.0),
    "relativistic": lambda nu, rest: SPEED_OF_LIGHT * (rest * rest - nu * nu) / (rest * rest + nu * nu),
}


def velocity(frequency: Any, rest: float, convention: str = "radio") -> Any:
    """Velocity [m/s], positive where the source recedes.

    Parameters
    ----------
    frequency
        Hz, a number or an array; the velocity is that in the frame of these frequencies.
    rest
        Rest frequency, Hz, > 0.
    convention
        ``radio``, ``optical`` or ``relativistic``.

    Raises
    ------
    ConfigError
        The rest frequency is not positive, or there is no such convention.
    """
    if convention not in VELOCITIES:
        raise ConfigError("no such convention", array="convention", value=convention, rule=" | ".join(VELOCITIES))
    if not 0.0 < rest < float("inf"):
        raise ConfigError("not a frequency", array="rest", value=rest, rule="> 0 Hz")
    return VELOCITIES[convention](frequency, rest)
