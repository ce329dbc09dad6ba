"""Stage 2, resolve: receiver parameters from all layers, and the load calibration of all pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.base import Backend, BadChannelRule
from calib_gpu.errors import ConfigError, NoValidLoads
from calib_gpu.physics import loads as physics
from calib_gpu.physics.loads import LoadPowers, SidebandGains
from calib_gpu.records import CountGroup, Floats, LoadCalibration, Loads, LoadSet, Receiver, Scan, pixel_major
from calib_gpu.schema import ScanFlag
from calib_gpu.settings import GAIN_NOTATIONS, Settings
from calib_gpu.stages.load import Reader, read_zero
from calib_gpu.store.pixel_arrays import PixelArrays, release

DEFAULT_GAINS = (0.5, 0.5)


def receiver(source: CountGroup, settings: Settings) -> Receiver:
    """Gains, forward efficiency and couplings after settings, store, profile and default were consulted."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    notes: list[str] = []

    def pick(name: str, stored: Any) -> Any:
        use_store = stored is not None and not settings.outranks_store(name)
        if use_store and settings.layer(name) == "profile" and stored != getattr(settings, name):
            notes.append(f"{name}: the store's {stored:g} wins over the profile's {getattr(settings, name):g}")
        values[name], origin[name] = (stored, "store") if use_store else (getattr(settings, name), settings.layer(name))
        return values[name]

    eta_f = float(pick("eta_f", _first(source, "eta_f")))
    if not 0.0 < eta_f <= 1.0:
        raise ConfigError("not a forward efficiency", array="source/eta_f", value=eta_f, rule="0 < eta_f <= 1")
    gains, gain_values, gain_origin = _gains(source, settings)
    values.update(gain_values)
    origin["gains"] = gain_origin
    for name in ("eta_h", "eta_c"):
        pick(name, None)
    return Receiver(gains, eta_f, settings.eta_h, settings.eta_c, values, origin, tuple(notes))


def _first(source: CountGroup, name: str) -> float | None:
    return float(np.ravel(source.arrays[name])[0]) if name in source.arrays else None


def _gains(source: CountGroup, settings: Settings) -> tuple[SidebandGains, dict[str, Any], str]:
    """A notation is taken whole from one layer: settings above the store, the store, settings below it, default."""
    given = next((n for n in GAIN_NOTATIONS if getattr(settings, n[0]) is not None), None)
    stored = [name for name in ("gain_sig", "gain_img") if name in source.arrays]
    if len(stored) == 1:
        raise ConfigError(
            "one gain weight without the other", array=f"source/{stored[0]}", rule="gain_sig and gain_img, or neither"
        )
    if stored and (given is None or not settings.outranks_store(given[0])):
        weights = tuple(source.arrays[name] for name in stored)
        gains = physics.gains_from_weights(*weights)
        return gains, {"g_sig": gains.signal.tolist() if gains.signal.ndim < 3 else "[C,R,A], as in L0"}, "store"
    if given == ("g_sig",):
        return (
            physics.gains_from_signal(float(settings.g_sig or 0.0)),
            {"g_sig": settings.g_sig},
            settings.layer("g_sig"),
        )
    if given == ("image_ratio",):
        ratio = float(settings.image_ratio or 0.0)
        return physics.gains_from_image_ratio(ratio), {"image_ratio": ratio}, settings.layer("image_ratio")
    if given is not None:
        w_s, w_i = float(settings.gain_sig or 0.0), float(settings.gain_img or 0.0)
        return physics.gains_from_weights(w_s, w_i), {"gain_sig": w_s, "gain_img": w_i}, settings.layer("gain_sig")
    return (
        physics.gains_from_weights(*DEFAULT_GAINS),
        dict(zip(("gain_sig", "gain_img"), DEFAULT_GAINS, strict=True)),
        "default",
    )


def bad_channel_rule(settings: Settings, saturation: float | None) -> BadChannelRule:
    """The limits of the bad-channel rules."""
    return BadChannelRule(
        settings.clip_counts, settings.clip_trec, settings.smooth_width, settings.edge_fraction, saturation
    )


def set_powers(loads: LoadSet, signal: NDArray[np.float64], image: NDArray[np.float64], rx: Receiver) -> LoadPowers:
    """Powers of the loads of one set on the scan's frequency axes, or those that the store gives."""
    if loads.override is not None:
        return loads.override
    return physics.load_powers(signal, image, loads.t_hot, loads.t_cold, rx.eta_h, rx.eta_c)


@dataclass(frozen=True)
class ResolvedLoads:
    """The calibration at the mean ON time, and what is needed to follow the loads in time."""

    loads: Loads
    calibration: LoadCalibration
    mean_powers: LoadPowers
    scan: Scan
    rx: Receiver
    zero_used: Mapping[str, Any]
    scan_flags: int

    def powers_at(self, time_us: float) -> tuple[LoadPowers, float]:
        """Load powers at an absolute time and the weight of the second set."""
        return powers_at(self.loads, time_us, self.scan, self.rx)


def powers_at(loads: Loads, time_us: float, scan: Scan, rx: Receiver) -> tuple[LoadPowers, float]:
    """Powers of the loads at an absolute time: temperatures are interpolated, J follows; and the second set's weight."""
    weight = loads.weight(time_us)
    first, last = loads.sets[0], loads.sets[-1]
    if weight == 0.0:
        return set_powers(first, scan.signal, scan.image, rx), weight
    if first.override is not None and last.override is not None:
        return first.override.interpolate(last.override, weight), weight
    t_hot = (1.0 - weight) * first.t_hot + weight * last.t_hot
    t_cold = (1.0 - weight) * first.t_cold + weight * last.t_cold
    return physics.load_powers(scan.signal, scan.image, t_hot, t_cold, rx.eta_h, rx.eta_c), weight


def resolve(
    scan: Scan, loads: Loads, rx: Receiver, settings: Settings, backend: Backend, reader: Reader
) -> tuple[ResolvedLoads, int]:
    """Load calibration of all pixels at the mean ON time; bytes read (ZERO subscans of ``source``).

    With two load sets the counts are interpolated in time, and a channel is bad if it is bad in either.
    """
    zero, n_read, origin = loads.sets[0].zero, 0, f"ZERO subscans of {loads.sets[0].scan}/calibration"
    if zero is None:
        zero, n_read = read_zero(scan.source, reader)
        origin = f"ZERO subscans of {scan.id}/source"
    used: dict[str, Any] = {"value": "[C,R,A] counts", "from": origin}
    if zero is None:
        used = {"value": settings.zero_level, "from": settings.layer("zero_level")}
    level = settings.zero_level if zero is None else _filled(zero, settings.zero_level, reader.arrays)
    rule = bad_channel_rule(settings, scan.source.rule.saturation)
    powers, weight = powers_at(loads, scan.source.absolute_us(scan.source.of_kind("ON")), scan, rx)
    first, last = loads.sets[0], loads.sets[-1]
    hot, cold = first.hot, first.cold
    if len(loads.sets) == 2:
        hot, cold = (
            _between(*pair, weight, reader.arrays) for pair in ((first.hot, last.hot), (first.cold, last.cold))
        )
    calibration = calibrate_loads(hot, cold, level, powers, rx, rule, backend, reader.arrays)
    if len(loads.sets) == 2:
        either = np.zeros_like(calibration.bad)
        for s in loads.sets:
            own = set_powers(s, scan.signal, scan.image, rx)
            either |= calibrate_loads(s.hot, s.cold, level, own, rx, rule, backend, reader.arrays).bad
        for r, a in np.ndindex(calibration.bad.shape[1:]):
            calibration.bad[:, r, a] = physics.whole_if_mostly_bad(either[:, r, a])
    if calibration.bad.all():
        raise NoValidLoads(
            "the loads leave no good channel in any pixel", array=f"{loads.sets[0].scan}/calibration",
            rule="HOT > COLD > 0, T_rec > 0 in some channels", fix="are HOT and COLD swapped, or the load temperatures wrong?",
        )  # fmt: skip
    flags = ScanFlag.FILL_IN_LOADS if any(s.has_missing for s in loads.sets) else 0
    return ResolvedLoads(loads, calibration, powers, scan, rx, used, int(flags)), n_read


def calibrate_loads(
    hot: NDArray[np.float64], cold: NDArray[np.float64], zero: NDArray[np.float64] | float, powers: LoadPowers,
    rx: Receiver, rule: BadChannelRule, backend: Backend, arrays: PixelArrays,
) -> LoadCalibration:  # fmt: skip
    """Gain, gamma, T_rec and bad channels of all pixels ``[C, R, A]``, pixel by pixel."""
    shape = (hot.shape[0], hot.shape[1], hot.shape[2])
    gain, gamma, trec, bad = arrays.zeros(shape), arrays.zeros(shape), arrays.zeros(shape), pixel_major(shape, bool)
    calibration = LoadCalibration(hot, cold, gain, gamma, trec, bad, zero)
    for r, a in np.ndindex(shape[1:]):
        pixel = (slice(None), r, a)
        gain[pixel], gamma[pixel], trec[pixel], bad[pixel] = backend.load_calibration(
            hot[pixel], cold[pixel], calibration.zero_of(r, a), powers, *rx.gains.pixel(r, a), rx.eta_f, rule
        )
        release(*(v[pixel] for v in (hot, cold, gain, gamma, trec)))
    return calibration


def written_trec(
    calibration: LoadCalibration, scan: Scan, rx: Receiver, convention: str, r: int, a: int
) -> NDArray[np.float64]:
    """T_rec,DSB of a pixel ``[C]`` in the convention that is asked for, K."""
    trec = calibration.trec[:, r, a]
    if convention == "callen_welton":
        trec = trec - physics.callen_welton_shift(scan.signal, scan.image, *rx.gains.pixel(r, a))
    return trec


def _filled(zero: Floats, level: float, arrays: PixelArrays) -> Floats:
    """Zero levels ``[C, R, A]``, the setting's where one is missing."""
    out = arrays.zeros(zero.shape)
    for r, a in np.ndindex(zero.shape[1:]):
        out[:, r, a] = np.where(np.isfinite(zero[:, r, a]), zero[:, r, a], level)
        release(out[:, r, a], zero[:, r, a])
    return out


def _between(first: Floats, second: Floats, weight: float, arrays: PixelArrays) -> Floats:
    """(1 - weight) first + weight second, ``[C, R, A]``."""
    out = arrays.zeros(first.shape)
    for r, a in np.ndindex(first.shape[1:]):
        out[:, r, a] = (1.0 - weight) * first[:, r, a] + weight * second[:, r, a]
        release(*(v[:, r, a] for v in (out, first, second)))
    return out
