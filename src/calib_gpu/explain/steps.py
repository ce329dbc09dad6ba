"""The steps of the calculation, in the symbols of docs/physics.md, each with its formula.

A formula is written in the symbols of the steps above it, with + - * / and the functions min, exp, sin and J: what a
pocket calculator does, in that order, gives the value to the last digit (exp, sin and J to one or two units in it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.physics import loads as load_physics
from calib_gpu.physics.atmosphere import EARTH_RADIUS_KM, PASCAL_PER_TORR
from calib_gpu.physics.radiation import H_OVER_K
from calib_gpu.records import Atmosphere, CountGroup, LoadSet, Subscan
from calib_gpu.settings import Settings
from calib_gpu.stages.atmosphere import find_table
from calib_gpu.stages.prepare import Factors
from calib_gpu.stages.resolve import ResolvedLoads
from calib_gpu.stages.site import site_value
from calib_gpu.workers import Workers, read_tile

J_OF = "J(nu, T) = h_k * nu / (exp(h_k * nu / T) - 1), h_k = h/k"


@dataclass(frozen=True)
class Step:
    """A value with its symbol and unit; ``formula`` of what stands above it, or ``source`` where it was read."""

    symbol: str
    value: float | int
    unit: str = ""
    formula: str = ""
    source: str = ""


@dataclass(frozen=True)
class Reading:
    """The dumps of one channel, pixel and subscan: counts ``[D]`` as stored, and which of them enter a mean ``[D]``."""

    subscan: Subscan
    counts: NDArray[Any]
    valid: NDArray[np.bool_]
    first: int | None

    @classmethod
    def of(cls, workers: Workers, group: CountGroup, subscan: Subscan, c: int, r: int, a: int) -> Reading:
        """Read them; ``first`` is the first dump in which the pixel has any valid channel."""
        counts, _ = read_tile(workers, group, subscan.index, slice(r, r + 1), slice(a, a + 1))
        n_dump = group.shape[1] if subscan.n_dump is None else subscan.n_dump
        valid = group.rule.valid(counts[0, 0], n_dump)
        dumps = np.flatnonzero(valid.any(axis=0))
        return cls(subscan, counts[0, 0, c].copy(), valid[c], int(dumps[0]) if dumps.size else None)

    @property
    def values(self) -> list[float | int]:
        """The valid counts, as plain numbers."""
        return [v.item() for v in self.counts[self.valid]]

    def told(self) -> str:
        """The counts in words; those that are left out in brackets."""
        return " ".join(str(v) if good else f"({v})" for v, good in zip(self.counts, self.valid, strict=True))


def mean_step(symbol: str, readings: Sequence[Reading], value: float, where: str) -> list[Step]:
    """Sum and number of the valid dumps of some subscans, and their mean."""
    total, count = sum(sum(r.values) for r in readings), sum(len(r.values) for r in readings)
    dumps = "; ".join(f"subscan {r.subscan.index}: {r.told()}" for r in readings)
    left_out = "" if all(r.valid.all() for r in readings) else "; in brackets what is left out"
    return [
        Step(f"sum_{symbol}", total, "counts", source=f"{where}, {dumps}{left_out}"),
        Step(f"number_{symbol}", count, "", source="dumps in the sum"),
        Step(
            symbol,
            value,
            "counts",
            f"sum_{symbol} / number_{symbol}" if count else "",
            "" if count else "no valid dump",
        ),
    ]


def load_steps(
    sets: Sequence[tuple[LoadSet, dict[str, list[Reading]]]], weight: float, pixel: tuple[int, int, int]
) -> list[Step]:
    """Counts and temperatures of HOT and COLD, of two load sets the means weighted in time; ``sets`` with their dumps."""
    steps: list[Step] = []
    two = len(sets) == 2
    if two:
        steps.append(Step("u", weight, "", source="weight of the second load set, linear in time"))
    for name in ("hot", "cold"):
        for k, (loads, readings) in enumerate(sets, 1):
            tail = f"_{k}" if two else ""
            value = float(getattr(loads, name)[pixel])
            where = f"{name.upper()} of {loads.scan}/calibration"
            steps += mean_step(f"n_{name}{tail}", readings[name], value, where)
            kelvin = float(getattr(loads, f"t_{name}"))
            if loads.override is None:
                steps.append(Step(f"T_{name}{tail}", kelvin, "K", source=f"t{name} of {loads.scan}/calibration, mean"))
        if two:
            for symbol in ("n", "T") if all(s.override is None for s, *_ in sets) else ("n",):
                first, second = (next(s.value for s in steps if s.symbol == f"{symbol}_{name}_{k}") for k in (1, 2))
                mixed = (1.0 - weight) * first + weight * second
                formula = f"(1 - u) * {symbol}_{name}_1 + u * {symbol}_{name}_2"
                steps.append(Step(f"{symbol}_{name}", mixed, "counts" if symbol == "n" else "K", formula))
    return steps


def power_steps(
    factors: Factors, powers: load_physics.LoadPowers, pixel: tuple[int, int, int], *, given: bool
) -> list[Step]:
    """Load powers, their contrast and gamma; ``given`` tells that the powers are those of the store."""
    scan, rx, (c, r, a) = factors.scan, factors.rx, pixel
    g_signal, g_image = (float(g if np.ndim(g) == 0 else g[c]) for g in rx.gains.pixel(r, a))
    steps = [
        Step("nu_s", float(scan.signal[c]), "Hz", source="signal frequency of the channel"),
        Step("nu_i", float(scan.image[c]), "Hz", source="image frequency of the channel"),
    ]
    if given:
        for load in ("hot", "cold"):
            for band, word in (("s", "signal"), ("i", "image")):
                value = float(getattr(powers, f"{load}_{word}")[c])
                steps.append(Step(f"P_{load}_{band}", value, "K", source="load_temp_sig and load_temp_img of L0"))
    else:
        steps.append(Step("h_k", H_OVER_K, "K/Hz", source="h/k"))
        plain = rx.eta_h == rx.eta_c == 1.0
        if not plain:
            steps += [Step("eta_h", rx.eta_h, source="coupling"), Step("eta_c", rx.eta_c, source="coupling")]
        for load, other, eta in (("hot", "cold", "eta_h"), ("cold", "hot", "eta_c")):
            for band, word in (("s", "signal"), ("i", "image")):
                value = float(getattr(powers, f"{load}_{word}")[c])
                mixture = f"{eta} * J(nu_{band}, T_{load}) + (1 - {eta}) * J(nu_{band}, T_{other})"
                formula = f"J(nu_{band}, T_{load})" if plain else mixture
                steps.append(Step(f"P_{load}_{band}", value, "K", formula))
    contrast = float(load_physics.load_contrast(powers, *rx.gains.pixel(r, a))[c])
    gamma = float(load_physics.gamma(powers, *rx.gains.pixel(r, a), rx.eta_f)[c])
    return [
        *steps,
        Step("g_s", g_signal, source=f"normalised signal gain ({rx.origin['gains']})"),
        Step("g_i", g_image, source="normalised image gain"),
        Step("eta_f", rx.eta_f, source=f"forward efficiency ({rx.origin['eta_f']})"),
        Step("DT", contrast, "K", "g_s * (P_hot_s - P_cold_s) + g_i * (P_hot_i - P_cold_i)"),
        Step("gamma", gamma, "K", "DT / (g_s * eta_f)"),
    ]


def sky_steps(factors: Factors, atmosphere: Atmosphere, on: int, c: int, settings: Settings) -> list[Step]:
    """Airmass, opacity and transmission of an ON subscan in a channel."""
    t_s, pwv, dry = float(factors.transmission(on)[c]), atmosphere.pwv, atmosphere.dry
    if factors.no_sky or pwv is None:
        return [Step("t_s", t_s, "", source="no atmosphere")]
    scan = factors.scan
    elevation = scan.source.subscans[int(factors.pairing.on[on])].elevation
    x = float(factors.airmass[on])
    if settings.airmass_mode == "scan_mean":
        airmass = [Step("X", x, source="airmass, mean over all ON subscans (airmass_mode=scan_mean)")]
    elif settings.airmass == "plane_parallel":
        airmass = [
            Step("elevation", elevation, "rad", source="of this ON subscan"),
            Step("X", x, "", "1 / sin(elevation)"),
        ]
    else:
        shell = [
            Step("R", EARTH_RADIUS_KM, "km", source="radius of the Earth"),
            Step("H", settings.shell_height_km, "km", source="thickness of the shell (shell_height_km)"),
        ]
        formula = "(((R * sin(elevation)) ** 2 + 2 * R * H + H ** 2) ** 0.5 - R * sin(elevation)) / H"
        airmass = [Step("elevation", elevation, "rad", source="of this ON subscan"), *shell, Step("X", x, "", formula)]
    tau, scaled = float(factors.tau_signal[c]), dry.value != 1.0
    table = find_table(scan, factors.rx, settings)
    assert table is not None  # there is an atmosphere
    torr = site_value(scan, "pamb") if table.pressure.size > 1 else None
    opacity = table.opacity(scan.topocentric_signal, None, None if torr is None else torr * PASCAL_PER_TORR)
    return [
        *airmass,
        Step("pwv", pwv, "mm", source="water vapour of the scan"),
        Step("b", float(opacity.b_signal[c]), "Np/mm", source=f"opacity table {table.name} at the channel's frequency"),
        Step("c", float(opacity.c_signal[c]), "Np", source="the same"),
        *([Step("s", dry.value, source=f"factor of the dry opacity ({dry.status})")] if scaled else []),
        Step("tau", tau, "Np", "b * pwv + s * c" if scaled else "b * pwv + c"),
        Step("t_s", t_s, "", "min(exp(-X * tau), 1)"),
    ]


def reference_steps(factors: Factors, on: int, readings: Sequence[Reading], pixel: tuple[int, int, int]) -> list[Step]:
    """The OFF spectra that serve an ON, in this channel, and the reference made of them."""
    c, r, a = pixel
    weights, offs = factors.pairing.weight[on].tolist(), factors.offs
    used = [(slot, w) for slot, w in zip(factors.slots[on].tolist(), weights, strict=True) if w > 0.0]
    steps: list[Step] = []
    for k, ((slot, weight), reading) in enumerate(zip(used, readings, strict=True), 1):
        value = float(offs.reference[c, r, a, slot])
        symbol = f"n_off_{k}"
        if offs.reference is offs.mean:
            steps += mean_step(symbol, [reading], value, "OFF")
        else:
            told = f"OFF subscan {reading.subscan.index}: first valid dump ({reading.first}) of {reading.told()}"
            steps.append(Step(symbol, value, "counts", source=told))
        steps.append(Step(f"w_{k}", weight, "", source=f"weight of OFF subscan {reading.subscan.index}"))
    formula = "n_off_1" if len(used) == 1 else "w_1 * n_off_1 + w_2 * n_off_2"
    reference = float(factors.reference(on, slice(r, r + 1), slice(a, a + 1))[0, 0, c])
    return [*steps, Step("n_ref", reference, "counts", formula)]


def powers_of(factors: Factors, resolved: ResolvedLoads, subscan: int) -> tuple[load_physics.LoadPowers, float]:
    """Powers of the loads that serve an ON subscan, and the weight of the second load set."""
    if len(resolved.loads.sets) == 1:
        return resolved.mean_powers, 0.0
    source = factors.scan.source
    return resolved.powers_at(source.epoch_us + source.subscans[subscan].time_us)
