"""Where a table needs more frequencies: in the middle of narrow lines (docs/atmosphere.md).

Ozone above 1 hPa makes spikes as narrow as 0.3 MHz on the tops of its lines. The line below is broad: where the opacity
bends from one frequency to the next there may be a spike, and it is computed at frequencies between; where it still bends
between these, once more.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PARTS: Final = 8
"""Into how many a cell is divided at once; a power of two."""

TOLERANCE: Final = 3e-4
"""Error of the transmission at zenith, from an opacity that is taken as a straight line, above which a cell is divided."""

BENDS: Final = (2e-4, 4.0 * TOLERANCE)
"""Second difference of the opacity, times the transmission, above which cells are looked into: cells of a step, and their parts.

A line that is resolved errs by an eighth of it; one that is not may hide behind less.
"""


def curved_cells(tau: Floats, bend: float) -> Bools:
    """Cells to look into ``[..., F - 1]``; ``tau`` is the opacity ``[..., F]``, cell k lies between k and k + 1."""
    bent = np.zeros(tau.shape, bool)
    bent[..., 1:-1] = np.abs(np.diff(tau, 2)) * np.exp(-tau[..., 1:-1]) > bend
    return np.asarray(bent[..., :-1] | bent[..., 1:])


def needed(tau: Floats) -> Bools:
    """Frequencies inside cells ``[K, PARTS + 1]`` that linear interpolation needs; the ends are not among them.

    A cell is halved, and its halves again, while a straight line errs. ``tau`` is the opacity ``[..., K, PARTS + 1]``.
    """
    keep = np.zeros(tau.shape[-2:], bool)
    cell, start, width = np.arange(tau.shape[-2]), np.zeros(tau.shape[-2], np.intp), PARTS
    while width > 1:
        part = tau[..., cell[:, None], start[:, None] + np.arange(width + 1)]
        line = part[..., :1] + (part[..., -1:] - part[..., :1]) * np.linspace(0.0, 1.0, width + 1)
        error = np.abs(np.exp(-part) - np.exp(-line)).max(axis=-1)
        split = error.max(axis=tuple(range(error.ndim - 1))) > TOLERANCE
        cell, start, width = cell[split], start[split], width // 2
        keep[cell, start + width] = True
        cell, start = np.concatenate([cell, cell]), np.concatenate([start, start + width])
    return keep
