"""The simulator can put the source off the centre. Its map is gridded in tests/interop."""

from __future__ import annotations

import numpy as np
import pytest

from calib_gpu.simulate.model import Model, source_pattern
from calib_gpu.simulate.plan import beam_offsets, pixel_offsets, plan_night
from point_source import BEAM, SOURCE, point_source


def test_the_source_is_where_it_was_put() -> None:
    """Amplitudes in the truth: a Gaussian of the beam about the source, at beam plus pixel offset of each dump."""
    config = point_source()
    (scan,) = plan_night(config)
    group = scan.groups[1]
    pattern = source_pattern(config, group)
    lon, lat = beam_offsets(config, group)
    pixel_lon, pixel_lat = pixel_offsets(1, 7)
    for d, a, on in ((0, 0, 0), (11, 3, 9), (19, 6, 17)):
        s = int(group.on_index[on])
        x = 3600.0 * (lon[d, s] + pixel_lon[0, a]) - SOURCE[0]
        y = 3600.0 * (lat[d, s] + pixel_lat[0, a]) - SOURCE[1]
        expected = 2.0 ** (-4.0 * (x * x + y * y) / BEAM**2)
        assert pattern[d, 0, a, on] == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert Model.of(config).line_profile.max() == pytest.approx(30.0, rel=0.05)
    nearest = np.unravel_index(pattern.argmax(), pattern.shape)
    assert pattern[nearest] > 0.9  # the map covers the source
