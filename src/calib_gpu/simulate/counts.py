"""Counts of one pixel and subscan: eq. (1), the radiometer noise, and the defects that are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError
from calib_gpu.simulate.model import Conditions, Model, Stream, source_pattern, stream
from calib_gpu.simulate.plan import GroupPlan

Floats = NDArray[np.float64]

SPIKE: Final = 1.5  # COLD in a spoilt channel, in units of HOT
BLOCK_SAMPLES: Final = 1 << 17  # samples that are worked on at once: they stay in the cache
_GROUPS: Final = ("source", "calibration")
_NOISE_SIGMAS: Final = 8.0  # no sample of any store lies further out


class Tiles:
    """The counts of one group, computed for one pixel and subscan at a time.

    Each tile has its own random numbers, so that tiles may be made in any order and by any thread.

    Parameters
    ----------
    model
        Receiver, atmosphere and source of the night.
    scan
        Scan number.
    group
        Subscans of the group.
    """

    def __init__(self, model: Model, scan: int, group: GroupPlan) -> None:
        self.model, self.scan, self.group = model, scan, group
        self.state = Conditions.of(model.config, group)
        self._pattern = source_pattern(model.config, group) if group.on_index.size else None

    def counts(self, r: int, a: int, s: int) -> NDArray[Any]:
        """Counts ``[C, D]`` of pixel (r, a) in subscan s."""
        config, subscan = self.model.config, self.group.subscans[s]
        c, d = self.group.shape[:2]
        steady, varying = self._above_zero(r, a, s)
        relative = 1.0 / np.sqrt(config.channel_spacing * config.dump_time) if config.noise else 0.0
        out = np.empty((c, d), config.dtype)
        rng = self._stream(Stream.NOISE, r, a, s)
        rows = max(1, min(c, BLOCK_SAMPLES // d))
        values, product, noise = np.empty((rows, d)), np.empty((rows, d)), np.empty((rows, d), np.float32)
        for first in range(0, c, rows):
            part = slice(first, min(first + rows, c))
            n = part.stop - first
            v, p, z = values[:n], product[:n], noise[:n]
            v[...] = steady[part, None]
            for spectrum, dumps in varying:
                v += np.multiply(spectrum[part, None], dumps, out=p)
            if config.noise:
                rng.standard_normal(dtype=np.float32, out=z)
                z *= np.float32(relative)
                v += np.multiply(v, z, out=p)
            v += config.zero_level
            out[part] = np.rint(v, out=v) if out.dtype.kind == "i" else v
        self._spoil(out, subscan.kind, subscan.n_dump, (r, a, s))
        return out

    def _above_zero(self, r: int, a: int, s: int) -> tuple[Floats, list[tuple[Floats, Floats]]]:
        """C - Z without noise: what is the same in all dumps ``[C]``, and products of a spectrum ``[C]`` and dumps ``[D]``."""
        model, config, rx = self.model, self.model.config, self.model.receiver
        kind = self.group.subscans[s].kind
        gain = rx.gain[:, r, a] * self.state.gain_factor[s]
        noise_power = rx.trec[:, r, a]
        if kind == "ZERO":
            return np.zeros_like(gain), []
        if kind in ("HOT", "COLD"):
            hot, cold = (gain * (noise_power + model.load_power(t, r, a)) for t in (config.t_hot, config.t_cold))
            return (hot if kind == "HOT" else np.where(rx.spiked[:, r, a], SPIKE * hot, cold)), []
        look = float(self.state.pwv[s]), float(self.state.airmass[s])
        sky = gain * (noise_power + model.off_power(*look, r, a))
        if kind == "OFF" or self._pattern is None:
            return sky, []
        t_s, t_i = model.transmission(*look)
        g_s, g_i = rx.gain_sig[r, a], rx.gain_img[r, a]
        pattern = np.ascontiguousarray(self._pattern[:, r, a, int(np.searchsorted(self.group.on_index, s))])
        # eq. (2d): the line in the signal band only, the continuum in both
        line = gain * config.eta_f * g_s * t_s * model.line_profile
        both = gain * config.eta_f * (g_s * t_s + g_i * t_i)
        return sky, [(line, pattern), (both, config.continuum * pattern)]

    def _spoil(self, out: NDArray[Any], kind: str, n_dump: int, where: tuple[int, int, int]) -> None:
        config = self.model.config
        missing: Any = np.nan if out.dtype.kind == "f" else np.iinfo(out.dtype).min
        if kind in ("ON", "OFF"):
            if config.saturation_level is not None:
                out[self._some(Stream.SATURATION, where, out.shape, config.saturation)] = config.saturation_level
            if config.holes > 0.0:
                out[self._some(Stream.HOLES, where, out.shape, config.holes)] = missing
        out[:, n_dump:] = missing

    def _some(
        self, purpose: Stream, where: tuple[int, int, int], shape: tuple[int, ...], fraction: float
    ) -> NDArray[np.bool_]:
        return self._stream(purpose, *where).random(shape, dtype=np.float32) < fraction

    def _stream(self, purpose: Stream, r: int, a: int, s: int) -> np.random.Generator:
        return stream(self.model.config, purpose, self.scan, _GROUPS.index(self.group.name), r, a, s)


def check_range(model: Model, factors: Iterable[float]) -> None:
    """Integer counts must not wrap around: a bound for all samples; ``factors`` are the gains over that at the start.

    Raises
    ------
    ConfigError
        Counts might exceed what int32 holds.
    """
    config, rx = model.config, model.receiver
    warmest = max(config.t_hot, config.t_amb * max(1.0, config.t_atm_factor), config.t_spill or 0.0, config.t_bg)
    power = float(rx.trec.max()) + warmest + 2.0 * abs(config.line_peak) + abs(config.continuum)
    noise = _NOISE_SIGMAS / np.sqrt(config.channel_spacing * config.dump_time) if config.noise else 0.0
    peak = float(rx.gain.max()) * max(factors) * SPIKE * power * (1.0 + noise) + abs(config.zero_level)
    if config.dtype == "int32" and not peak < np.iinfo(np.int32).max:
        raise ConfigError(
            "counts beyond int32", array="counts", value=f"up to {peak:.3g}", rule="lower counts, temperatures or noise"
        )
