"""The table that comes with the package: a synthetic one for the bands of the simulator.

It has the shape and the size of a real atmosphere over a 5600 m site (water lines of the right place, a collisional
continuum, ozone lines), but it is made of a few closed formulas: good for simulations and demonstrations, not for
science. A run that uses it on anything else says so.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from calib_gpu.atm.table import OpacityTable
from calib_gpu.errors import AtmRange

BANDS_GHZ: Final = ((455.0, 500.0), (795.0, 825.0))
STEP_GHZ: Final = 0.01
PRESSURES_PA: Final = (51_000.0, 53_000.0, 55_000.0)
REFERENCE_PA: Final = 53_000.0

# centre [GHz], strength [Np GHz per mm at the reference pressure], half width [GHz]
WATER_LINES: Final = (
    (439.15, 2.0, 1.6), (448.00, 11.0, 1.6), (470.89, 0.12, 1.5), (474.69, 1.9, 1.5), (488.49, 0.45, 1.5),
    (556.94, 620.0, 1.7), (620.70, 70.0, 1.6), (752.03, 560.0, 1.7), (916.17, 60.0, 1.6), (987.93, 700.0, 1.7),
)  # fmt: skip
# centre [GHz], zenith opacity at the peak [Np], half width [GHz]
OZONE_LINES: Final = (
    (458.7, 0.05, 0.03), (463.19, 0.22, 0.04), (467.9, 0.08, 0.03), (476.3, 0.10, 0.03), (481.6, 0.12, 0.04),
    (487.35, 0.05, 0.05), (490.2, 0.14, 0.03), (496.4, 0.09, 0.03), (802.5, 0.15, 0.05), (810.8, 0.20, 0.05), (818.2, 0.12, 0.05),
)  # fmt: skip


@cache
def builtin_tables() -> tuple[OpacityTable, ...]:
    """The built-in tables, one a band."""
    return tuple(_synthetic(low, high) for low, high in BANDS_GHZ)


def _synthetic(low: float, high: float) -> OpacityTable:
    nu = np.round(np.arange(low, high + STEP_GHZ / 2, STEP_GHZ), 6)
    ratio = np.array(PRESSURES_PA)[:, None] / REFERENCE_PA
    wet = 0.74 * (nu / 460.0) ** 0.87 * ratio
    for centre, strength, width in WATER_LINES:
        half = width * ratio
        wet = wet + strength * (nu / centre) ** 2 * half / ((nu - centre) ** 2 + half**2) / np.pi
    dry = 0.068 * (nu / 460.0) ** 0.4 * ratio**2
    for centre, peak, width in OZONE_LINES:
        dry = dry + peak * width**2 / ((nu - centre) ** 2 + width**2)
    dry = dry + 0.6 * (0.8 * ratio) ** 2 / ((nu - 487.25) ** 2 + (0.8 * ratio) ** 2)  # oxygen, 487.25 GHz
    name = f"builtin:synthetic-{low:g}-{high:g}GHz"
    return OpacityTable(nu * 1e9, np.array(PRESSURES_PA), wet, dry, None, name, synthetic=True)


def find_builtin(*axes: np.ndarray) -> OpacityTable:
    """The built-in table that covers all frequencies [Hz], else :class:`AtmRange`."""
    for table in builtin_tables():
        if table.covers(*axes):
            return table
    have = ", ".join(f"{low:g}-{high:g}" for low, high in BANDS_GHZ)
    low, high = min(float(a.min()) for a in axes) / 1e9, max(float(a.max()) for a in axes) / 1e9
    raise AtmRange(
        "no built-in opacity table covers both sidebands", array="atmosphere", value=f"{low:.4f} to {high:.4f} GHz",
        rule=f"built-in: {have} GHz", fix="give a table (--atmosphere TABLE), or --atmosphere none",
    )  # fmt: skip
