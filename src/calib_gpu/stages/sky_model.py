"""The sky of a scan as the fit sees it: temperatures of atmosphere, spillover and background, a slab or layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calib_gpu.atm.table import OpacityTable
from calib_gpu.errors import ConfigError
from calib_gpu.physics.atmosphere import Opacity
from calib_gpu.physics.radiation import physical_temperature, rayleigh_jeans_temperature
from calib_gpu.physics.sky import Layers, Sky, SkyBand, Slab
from calib_gpu.records import Floats, Scan
from calib_gpu.settings import Settings
from calib_gpu.stages.site import needed_value, site_value


@dataclass(frozen=True)
class SkySource:
    """What the sky is made of: the table, its opacity on the scan's channels, the pressure at which it was looked up [Pa]."""

    table: OpacityTable
    opacity: Opacity
    pressure: float | None


@dataclass
class SkyChoice:
    """The sky, what was used for it and from where (for L1), whether T_atm is ambient by default, and if it has layers."""

    sky: Sky
    used: dict[str, Any]
    defaulted: bool
    layered: bool = False
    warnings: list[str] = field(default_factory=list)


def no_t_eff() -> ConfigError:
    """A table without emission."""
    return ConfigError(
        "the opacity table has no t_eff", array="t_atm", value="table", fix="use t_atm=factor, or a table with t_eff"
    )


def choose_sky(scan: Scan, source: SkySource, settings: Settings, eta_f: float) -> SkyChoice:
    """The sky that the settings and the store ask for.

    Raises
    ------
    MissingValue, ConfigError
        A site value is missing; the table has no emission.
    """
    n_band = 2 if source.opacity.has_image else 1
    frequency = (scan.signal, scan.image)[:n_band]
    t_spill, spill_used = _t_spill(scan, settings, eta_f)
    # with eta_f = 1 nothing is spilt: the value does not enter
    spill = tuple(rayleigh_jeans_temperature(nu, t_spill or 0.0) for nu in frequency)
    background = tuple(rayleigh_jeans_temperature(nu, settings.t_bg) for nu in frequency)
    stored = None if settings.outranks_store("t_atm") else site_value(scan, "t_atm")
    if stored is None and settings.t_atm == "table":
        bands, used, warnings = _layers(scan, source, settings, background)
        return SkyChoice(Sky(bands, spill), {"t_atm": used} | spill_used, False, True, warnings)
    value, origin = (stored, "store") if stored is not None else (_t_atm(scan, settings), settings.layer("t_atm"))
    slabs: tuple[SkyBand, ...] = tuple(
        Slab(b, c, rayleigh_jeans_temperature(nu, value), behind)
        for nu, (b, c), behind in zip(frequency, _opacities(source.opacity), background, strict=False)
    )
    used = {"t_atm": {"value": value, "from": origin}} | spill_used
    return SkyChoice(Sky(slabs, spill), used, stored is None and settings.t_atm == "ambient")


def _opacities(opacity: Opacity) -> tuple[tuple[Floats, Floats], ...]:
    return (opacity.b_signal, opacity.c_signal), (opacity.b_image, opacity.c_image)


def _t_spill(scan: Scan, settings: Settings, eta_f: float) -> tuple[float | None, dict[str, Any]]:
    stored = None if settings.outranks_store("t_spill") else site_value(scan, "t_spill")
    origin, t_spill = "store", stored
    if t_spill is None:
        origin = settings.layer("t_spill")
        if not isinstance(settings.t_spill, str):
            t_spill = float(settings.t_spill)
        elif eta_f < 1.0:
            t_spill = needed_value(scan, "tamb", "for the spillover temperature", "set t_spill")
    return t_spill, {} if t_spill is None else {"t_spill": {"value": t_spill, "from": origin}}


def _t_atm(scan: Scan, settings: Settings) -> float:
    """Physical temperature of a slab, K."""
    if not isinstance(settings.t_atm, str):
        return float(settings.t_atm)
    value = needed_value(scan, "tamb", f"for t_atm={settings.t_atm}", "set t_atm to a value")
    return value * (settings.t_atm_factor if settings.t_atm == "factor" else 1.0)


def _layers(
    scan: Scan, source: SkySource, settings: Settings, background: tuple[Floats, ...]
) -> tuple[tuple[SkyBand, ...], dict[str, Any], list[str]]:
    """The bands with the emission of the table, scaled from its ground temperature to that of the scan."""
    table, warnings = source.table, []
    used: dict[str, Any] = {"value": "table", "from": settings.layer("t_atm")}
    if table.t_eff is None:
        raise no_t_eff()
    t_table, t_scan = table.ground_temperature(source.pressure), _ground(scan)
    if t_table is not None and t_scan is not None:
        used |= {"t_ground": t_table, "tamb": t_scan}
    else:
        what = "the table does not tell its" if t_table is None else "L0 has no"
        warnings.append(f"t_atm=table: {what} ground temperature; the emission of {table.name} is taken as it is")
    bands: list[SkyBand] = []
    axes = (scan.topocentric_signal, scan.topocentric_image)
    for nu, (b, c), behind in zip(axes, _opacities(source.opacity), background, strict=False):
        emission = table.emission(nu, source.pressure)
        if t_table is not None and t_scan is not None:
            j = rayleigh_jeans_temperature
            emission = emission.scaled(temperature=j(nu, t_scan) / j(nu, t_table))
        bands.append(Layers(b, c, emission, behind))
    return tuple(bands), used, warnings


def _ground(scan: Scan) -> float | None:
    """Ambient temperature where it is there; not needed here."""
    values = scan.source.arrays.get("tamb")
    return None if values is None or not np.any(np.isfinite(values)) else site_value(scan, "tamb")


def effective_temperature(nu: Floats, band: SkyBand, tau: Floats, w: float, x: float) -> Floats:
    """T_eff ``[C]`` of a band, K: that of the slab which emits as much at this PWV and airmass; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return physical_temperature(nu, band.emitted(w, x) / -np.expm1(-x * tau))
