"""The NumPy backend: the reference for all others, and what runs where there is no GPU."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.base import BadChannelRule, TileResult
from calib_gpu.backend.device import Device
from calib_gpu.physics import loads
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.physics.loads import LoadPowers
from calib_gpu.physics.sky import Sky, sky_signal
from calib_gpu.physics.sky_sums import SkyData, SkySums, chi2_grid
from calib_gpu.records import DumpStats, Floats, pixel_major
from calib_gpu.schema import ENGINE_FLAGS, Flag

PIECE: Final = 256 * 1024
"""Samples worked on at a time, 2 MiB of float64: smaller ones are no faster, and threads meet more often between calls."""

_ANY: Final = 16
"""Place of the samples with any bit set, behind those of the 16 bits."""

_SAFE_FACTOR: Final = {8: 1e280, 4: 1e15}
"""Factors (by item size of the output) below which no integer count can overflow."""


class NumpyBackend:
    """See :class:`calib_gpu.backend.base.Backend`."""

    name = "numpy"
    device: Device | None = None

    def describe(self) -> str:
        """The processor and the NumPy version."""
        return f"NumPy {np.__version__} on {platform.machine()}"

    def dump_mean(
        self, counts: NDArray[Any], rule: SampleRule, n_dump: int, *, want_first: bool = False, want_band: bool = False
    ) -> DumpStats:
        """Sums over the valid dumps of a tile."""
        n_r, n_a, n_c, n_d = counts.shape
        total, valid = pixel_major((n_c, n_r, n_a)), pixel_major((n_c, n_r, n_a), np.int64)
        first = pixel_major((n_c, n_r, n_a)) if want_first else None
        band = np.full((n_d, n_r, n_a), np.nan) if want_band else None
        dump_valid, dump_present = np.zeros(n_d, bool), np.zeros(n_d, bool)
        dump_missing = np.zeros(n_d, np.int64)
        for r, a in np.ndindex(n_r, n_a):
            pixel = counts[r, a]
            if rule.all_valid(pixel, n_dump):
                dump_valid[:] = dump_present[:] = True
                total[:, r, a], valid[:, r, a] = _sum_dumps(pixel), n_d
                if first is not None:
                    first[:, r, a] = pixel[:, 0]
                if band is not None:
                    band[:, r, a] = _sum_channels(pixel) / n_c
                continue
            missing, good = rule.missing(pixel, n_dump), rule.valid(pixel, n_dump)
            dump_missing += np.count_nonzero(missing, axis=0)
            dump_present |= ~missing.all(axis=0)
            any_good = good.any(axis=0)
            dump_valid |= any_good
            total[:, r, a] = _sum_dumps(np.where(good, pixel, pixel.dtype.type(0)))
            valid[:, r, a] = np.count_nonzero(good, axis=1)
            if first is not None:
                d = int(np.argmax(any_good))
                first[:, r, a] = np.where(good[:, d], pixel[:, d], np.nan)
            if band is not None:
                with np.errstate(invalid="ignore", divide="ignore"):
                    band[:, r, a] = _sum_channels(np.where(good, pixel, 0)) / np.count_nonzero(good, axis=0)
        return DumpStats(total, valid, first, band, dump_valid, dump_present, dump_missing)

    def load_calibration(
        self, hot: Floats, cold: Floats, zero: Floats | float, powers: LoadPowers, g_signal: Floats, g_image: Floats,
        eta_f: float, rule: BadChannelRule,
    ) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:  # fmt: skip
        """Gain, gamma, T_rec and bad channels of one pixel."""
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = (hot - cold) / loads.load_contrast(powers, g_signal, g_image)
        gamma = np.broadcast_to(loads.gamma(powers, g_signal, g_image, eta_f), hot.shape)
        trec = loads.receiver_temperature(hot, cold, zero, powers, g_signal, g_image)
        bad = loads.bad_channels(hot, cold, trec / g_signal, **vars(rule))
        return gain, gamma, trec, bad

    def sky_signal(self, off: Floats, hot: Floats, gain: Floats) -> Floats:
        """S_H,obs of one pixel."""
        return sky_signal(off, hot, gain)

    def sky_sums(self, n_off: int, n_channel: int, pixels: Iterable[SkyData]) -> SkySums:
        """The sums of the PWV fit."""
        sums = SkySums.zeros(n_off, n_channel)
        for data in pixels:
            sums.add_pixel(data.observed, data.model, np.isfinite(data.observed) & ~data.bad, data.weights)
        return sums

    def pwv_grid(self, sums: SkySums, sky: Sky, x: Floats, grid: Floats) -> Floats:
        """chi2 of every grid point and OFF."""
        return chi2_grid(sums, sky, x, grid)

    def calibrate_tile(
        self, on: NDArray[Any], ref: Floats, factor: Floats, base: NDArray[np.uint16], quantum: Floats, rule: SampleRule,
        n_dump: int, spectra: NDArray[Any], flags: NDArray[np.uint16],
    ) -> TileResult:  # fmt: skip
        """T_A* and flags of one tile, in pieces that stay in the cache and leave it as blocks of dumps."""
        n_r, n_a, n_c, n_d = on.shape
        counts, present = np.zeros((n_r, n_a, 17), np.int64), np.zeros(n_d, bool)
        step = _piece(n_c, n_d)
        work = np.empty((step, n_d))
        limit = _SAFE_FACTOR[spectra.dtype.itemsize]
        flagged = base != 0
        level, finite = np.where(flagged, 0.0, ref), np.where(flagged, 0.0, factor)
        exact_factor = np.where(flagged, np.nan, factor)  # no pass of its own turns flagged channels into NaN
        with np.errstate(over="ignore", invalid="ignore"):
            for r, a in np.ndindex(n_r, n_a):
                q = float(quantum[r, a])
                k = exact_factor[r, a] / q if q else exact_factor[r, a]  # exact: q is a power of two
                # integer counts times such a factor are finite: no need to look at every sample
                within = _largest(finite[r, a]) * (max(1.0, 1.0 / q) if q else 1.0) < limit
                safe = on.dtype.kind != "f" and within and _largest(level[r, a]) < 1e20
                _flag_channels(base[r, a], flags[r, a], n_d)
                whole = np.zeros(n_c, bool)  # channels of pieces that hold nothing but valid counts
                for c in range(0, n_c, step):
                    here = slice(c, c + step)
                    values = work[: min(step, n_c - c)]
                    np.subtract(on[r, a, here], level[r, a, here, None], out=values, casting="unsafe", dtype=np.float64)
                    np.multiply(values, k[here, None], out=values)
                    if q:
                        if not safe:  # from 2^53 on they are whole multiples already, and may overflow
                            exact = (on[r, a, here] - level[r, a, here, None]) * exact_factor[r, a, here, None]
                        np.rint(values, out=values)
                        np.multiply(values, q, out=values)
                        if not safe:
                            values[...] = np.where(np.abs(exact) < q * 2.0**53, values, exact)
                    marks = _marks(on[r, a, here], base[r, a, here], rule, n_dump, present)
                    if not safe:
                        with_any = base[r, a, here, None] if marks is None else marks
                        bad = ~np.isfinite(values.astype(spectra.dtype)) & (with_any == 0)
                        if bad.any():
                            marks = np.where(bad, np.uint16(Flag.NONFINITE), with_any)
                    if marks is None:
                        whole[here] = True
                    else:
                        values[marks != 0] = np.nan
                        _count(marks[marks != 0], counts[r, a], 1)
                        _to_blocks(marks, flags[r, a, :, here], 0)
                    _to_blocks(values, spectra[r, a, :, here], np.nan)
                _count(base[r, a, whole & flagged[r, a]], counts[r, a], n_d)
        return TileResult(counts[..., :16], counts[..., _ANY], present)

    def close(self) -> None:
        """Nothing is held."""


def _piece(n_channel: int, n_dump: int) -> int:
    """Channels of a piece, all pieces of about the same size."""
    n_piece = max(1, -(-n_channel * n_dump // PIECE))
    return -(-n_channel // min(n_channel, n_piece))


def _largest(values: Floats) -> float:
    """Largest absolute value; NaN if there is one."""
    return float(np.maximum(values.max(), -values.min()))


def _flag_channels(base: NDArray[np.uint16], out: NDArray[np.uint16], n_dump: int) -> None:
    """The flags of channels ``[C]`` in all dumps of blocks ``[B, C, d]``; the padding of the last block is 0."""
    d = out.shape[2]
    out[...] = np.repeat(base, d).reshape(-1, d)  # whole rows: the loop over a few dumps would cost more
    padding = out.shape[0] * d - n_dump
    if padding:
        out[-1, :, d - padding :] = 0


def _sum_channels(counts: NDArray[Any]) -> Floats:
    """Sum over the first axis in ascending order; of a single dump NumPy would add pairs, whose rounding is another one."""
    if counts.shape[1] == 1:
        return np.add.accumulate(counts[:, 0], dtype=np.float64)[-1:]
    return np.asarray(counts.sum(axis=0, dtype=np.float64))


def _sum_dumps(counts: NDArray[Any]) -> Floats:
    """Sum over the last axis: integers exactly in int64, floats dump by dump."""
    if counts.dtype.kind != "f":
        return np.asarray(counts.sum(axis=-1, dtype=np.int64), dtype=np.float64)
    total = counts[:, 0].astype(np.float64)
    for d in range(1, counts.shape[-1]):
        total += counts[:, d]
    return total


def _marks(
    on: NDArray[Any], base: NDArray[np.uint16], rule: SampleRule, n_dump: int, present: NDArray[np.bool_]
) -> NDArray[np.uint16] | None:
    """Flags of a piece ``[C, D]``; None where all counts are valid, so that ``base`` says it all."""
    if rule.all_valid(on, n_dump):
        present[:] = True
        return None
    missing = rule.missing(on, n_dump)
    present |= ~missing.all(axis=0)
    marks = np.repeat(base[:, None], on.shape[1], axis=1)
    marks[missing] |= np.uint16(Flag.FILL_VALUE)
    marks[rule.invalid(on) & ~missing] |= np.uint16(Flag.INVALID_COUNT)
    return marks


def _to_blocks(values: NDArray[Any], out: NDArray[Any], fill: float) -> None:
    """Copy ``[C, D]`` into blocks of dumps ``[B, C, d]``; what is left of the last block is padding."""
    d = out.shape[2]
    full, rest = divmod(values.shape[1], d)
    typed = values.astype(out.dtype, copy=False)
    row = np.dtype((np.void, d * out.itemsize))  # rows copied whole: the loop over a few dumps would cost more
    out[:full].view(row)[..., 0] = typed[:, : full * d].view(row).T
    if rest:
        out[full, :, :rest] = typed[:, full * d :]
        out[full, :, rest:] = fill


def _count(flags: NDArray[np.uint16], counts: NDArray[np.int64], times: int) -> None:
    """Add the number of samples with each bit set, and of those with any."""
    if not flags.size:
        return
    counts[_ANY] += times * flags.size
    seen = np.bincount(flags, minlength=int(ENGINE_FLAGS) + 1)
    for value in np.flatnonzero(seen).tolist():
        for bit in range(16):
            if value >> bit & 1:
                counts[bit] += times * seen[value]
