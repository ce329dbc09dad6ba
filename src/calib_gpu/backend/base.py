"""The protocol that every backend fulfils. One body of tests runs on all of them (``tests/unit/test_backend.py``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.device import Device
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.physics.loads import LoadPowers
from calib_gpu.physics.sky import Sky
from calib_gpu.physics.sky_sums import SkyData, SkySums
from calib_gpu.records import DumpStats, Floats


@dataclass(frozen=True)
class BadChannelRule:
    """Limits of the bad-channel rules (settings of the same names)."""

    clip_counts: float
    clip_trec: float
    smooth_width: int
    edge_fraction: float
    saturation: float | None


@dataclass(frozen=True)
class TileResult:
    """What a tile kernel reports beside its arrays.

    ``flag_counts`` [R,A,16] samples with each bit set, ``invalid`` [R,A] samples with any, ``dump_present`` [D] dumps
    that hold any sample.
    """

    flag_counts: NDArray[np.int64]
    invalid: NDArray[np.int64]
    dump_present: NDArray[np.bool_]


class Backend(Protocol):
    """Arithmetic of the engine. Tiles are ``[R, A, C, D]``: the dumps of a channel, the channels of a pixel contiguous."""

    name: str
    device: Device | None
    """Where the tiles of a scan are calculated; None: on the host, by :meth:`calibrate_tile`."""

    def describe(self) -> str:
        """The device, in words, for the report."""
        ...

    def dump_mean(
        self, counts: NDArray[Any], rule: SampleRule, n_dump: int, *, want_first: bool = False, want_band: bool = False
    ) -> DumpStats:
        """Sums over the valid dumps of a tile.

        ``counts`` is ``[R, A, C, D]`` in the stored type, ``n_dump`` the number of dumps that hold data. Integer
        counts are summed exactly; floats dump by dump in ascending order. ``want_first`` asks
        for the first valid dump, ``want_band`` for the band mean of each dump.
        """
        ...

    def load_calibration(
        self, hot: Floats, cold: Floats, zero: Floats | float, powers: LoadPowers, g_signal: Floats, g_image: Floats,
        eta_f: float, rule: BadChannelRule,
    ) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:  # fmt: skip
        """Gain (counts/K), gamma (K), T_rec,DSB (K, Planck) and bad channels of one pixel; all ``[C]``."""
        ...

    def sky_signal(self, off: Floats, hot: Floats, gain: Floats) -> Floats:
        """S_H,obs of one pixel ``[O, C]``, K, eq. (12).

        ``off`` is [O, C] counts; ``hot`` in counts and ``gain`` in counts/K are [C] or [O, C].
        """
        ...

    def sky_sums(self, n_off: int, n_channel: int, pixels: Iterable[SkyData]) -> SkySums:
        """The sums ``[O, C]`` of the PWV fit over some pixels, in their order."""
        ...

    def pwv_grid(self, sums: SkySums, sky: Sky, x: Floats, grid: Floats) -> Floats:
        """chi2 of every grid point and OFF ``[grid, O]`` in one call; ``x`` is the airmass ``[O]``."""
        ...

    def calibrate_tile(
        self, on: NDArray[Any], ref: Floats, factor: Floats, base: NDArray[np.uint16], quantum: Floats, rule: SampleRule,
        n_dump: int, spectra: NDArray[Any], flags: NDArray[np.uint16],
    ) -> TileResult:  # fmt: skip
        """T_A* = (on - ref) * factor and flags of one tile, into ``spectra`` and ``flags``.

        ``on`` [R,A,C,D] counts as stored; ``ref`` [R,A,C] counts; ``factor`` [R,A,C] K/count, transmission included;
        ``base`` [R,A,C] flag bits that hold for all dumps; ``quantum`` [R,A] K, a power of two to whose multiples T_A*
        is rounded (half to even), 0 for none. The outputs are [R,A,B,C,d]: dumps in B blocks of d, as they are encoded;
        what is left of the last block is NaN and 0.
        """
        ...

    def close(self) -> None:
        """Give back what is held of a device."""
        ...
