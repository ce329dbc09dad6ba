"""Why a sample is flagged, in words and numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from calib_gpu.physics.loads import DEAD_PIXEL_FRACTION, running_mean
from calib_gpu.records import CountGroup, Floats, LoadCalibration
from calib_gpu.schema import FLAG_MEANINGS, Flag
from calib_gpu.settings import Settings


def names(flags: int) -> str:
    """The names of the bits that are set."""
    return " ".join(str(flag.name) for flag in Flag if flags & flag) or "none"


def reasons(
    flags: int,
    count: Any,
    dump: int,
    n_dump: int,
    source: CountGroup,
    *,
    bad: list[str],
    off: str,
    t_s: float,
    t_min: float,
) -> list[tuple[str, str]]:
    """Name and reason of every bit of a sample.

    Parameters
    ----------
    flags
        The bits of the sample.
    count, dump, n_dump
        The ON count, its dump, and how many dumps of its subscan hold data.
    source
        The group of the ON counts.
    bad, off
        Why the channel is bad, and what the OFFs lack.
    t_s, t_min
        Transmission and its limit.
    """
    if dump >= n_dump:
        missing = f"dump {dump} is padding: the subscan has {n_dump} dumps"
    else:
        missing = (
            "the count is NaN" if source.counts.dtype.kind == "f" else f"the count is the fill value {source.rule.fill}"
        )
    level = source.rule.saturation
    saturated = level is not None and not count <= 0 and count >= level
    why = {
        Flag.BAD_CHANNEL: "; ".join(bad),
        Flag.FILL_VALUE: missing,
        Flag.NO_REFERENCE: off,
        Flag.INVALID_COUNT: f"{count} >= adc_saturation {level:.17g}" if saturated else f"{count} <= 0",
        Flag.OPAQUE: f"t_s = {t_s!r} < t_min = {t_min!r}",
        Flag.NONFINITE: "the result is not a finite number",
    }
    return [(str(f.name), why.get(f) or FLAG_MEANINGS[f]) for f in Flag if flags & f]


def bad_channel_reasons(
    cal: LoadCalibration, g_signal: Floats, c: int, r: int, a: int, settings: Settings, saturation: float | None
) -> list[str]:
    """The rules of physics, section 3.5, that a channel breaks; empty if it breaks none."""
    hot, cold = cal.hot[:, r, a], cal.cold[:, r, a]
    trec = cal.trec[:, r, a] / g_signal
    difference = hot - cold
    h, k, d, t = (float(v[c]) for v in (hot, cold, difference, trec))
    found: list[str] = []
    if not (np.isfinite(h) and np.isfinite(k)):
        found.append("HOT or COLD has no valid dump in this channel")
    if h <= 0.0 or k <= 0.0:
        found.append("HOT or COLD is <= 0")
    if saturation is not None and max(h, k) >= saturation:
        found.append(f"HOT or COLD reaches adc_saturation {saturation:.17g}")
    if h <= k:
        found.append(f"HOT {h!r} <= COLD {k!r}")
    with np.errstate(invalid="ignore"):
        smooth = running_mean(np.where(np.isfinite(difference), difference, np.nan), settings.smooth_width)
        top = float(np.nanmax(smooth)) if np.isfinite(smooth).any() else float("nan")
        limit = settings.clip_counts * top
        if d < limit:
            found.append(f"HOT - COLD = {d!r} < clip_counts * {top!r}, the maximum of its running mean")
        if not t > 0.0:
            found.append(f"T_rec,SSB = {t!r} K is not > 0")
        bad = (
            ~(np.isfinite(hot) & np.isfinite(cold))
            | (hot <= 0.0)
            | (cold <= 0.0)
            | (hot <= cold)
            | (difference < limit)
        )
        bad |= ~(trec > 0.0)
        if saturation is not None:
            bad |= (hot >= saturation) | (cold >= saturation)
        median = float(np.median(trec[~bad])) if not bad.all() else float("nan")
        if t > settings.clip_trec * median:
            found.append(f"T_rec,SSB = {t!r} K > clip_trec {settings.clip_trec:g} * median {median!r} K")
    edge = int(settings.edge_fraction * hot.size)
    if c < edge or c >= hot.size - edge:
        found.append(f"one of {edge} channels at an end of the band (edge_fraction)")
    if cal.bad[:, r, a].all() and not found:
        found.append(
            f"more than {100 * DEAD_PIXEL_FRACTION:.0f} % of the pixel's channels are bad: all of them are flagged"
        )
    if cal.bad[c, r, a] and not found:
        found.append("bad in one of the two load sets")
    return found
