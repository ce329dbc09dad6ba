"""A simulated map of a point source, for the tests of gridding."""

from __future__ import annotations

from typing import Any

from calib_gpu.simulate import closure

BEAM = 26.0
"""FWHM, arcsec."""
SOURCE = (14.0, -9.0)
"""Offsets of the source in longitude and latitude, arcsec."""


def point_source(**more: Any) -> Any:
    """A beam-sized source off the centre, observed by seven pixels."""
    shape = (32, 20, 1, 7, 26)
    return closure(
        shape=shape, n_scans=1, night=False, source_size=BEAM, source_lon=SOURCE[0], source_lat=SOURCE[1], continuum=0.0,
        line_peak=30.0, line_width=4e8, line_offset=3e8, **more,
    )  # fmt: skip
